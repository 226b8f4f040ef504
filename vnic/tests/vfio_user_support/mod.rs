//! A small card, a control thread that serves it, and a raw client that sends what a good one never would.
#![allow(dead_code)] // each test file uses its part

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::{Egress, Grace, Ingress, PortState};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sharedmem::{DmaMap, SharedPage};
use vnic::device::{BadAccess, Bar, DeviceModel, PciProfile};
use vnic::irq::Interrupts;
use vnic::vfio_user::{Card, Header, MessageCounters, Progress, Server};

/// What the card saw, for the test to look at.
#[derive(Debug, Default)]
pub struct Seen {
    pub map: Option<Arc<DmaMap>>,
    pub maps: u32,
    pub resets: u32,
    pub accesses: Vec<(u8, u32, usize)>,
}

/// BAR 0 a mapped page, BAR 1 memory registers, BAR 2 MSI-X, BAR 3 I/O registers.
pub struct TestCard {
    profile: PciProfile,
    page: Arc<SharedPage>,
    pub registers: [u8; 256],
    seen: Arc<Mutex<Seen>>,
}

impl TestCard {
    pub fn new(page: Arc<SharedPage>, seen: Arc<Mutex<Seen>>) -> TestCard {
        let bar = |size, io| Bar { size, io };
        let profile = PciProfile {
            vendor: 0x15ad,
            device: 0x07b0,
            subsystem_vendor: 0x15ad,
            subsystem: 0x07b0,
            revision: 1,
            bars: [bar(4096, false), bar(256, false), bar(4096, false), bar(32, true), bar(0, false), bar(0, false)],
            msi_vectors: 4,
            msix_vectors: 25,
            msix_bar: 2,
            grant_latency: (0, 0),
        };
        TestCard { profile, page, registers: [0; 256], seen }
    }
}

impl DeviceModel for TestCard {
    fn pci(&self) -> &PciProfile {
        &self.profile
    }

    fn read(&mut self, bar: u8, offset: u32, data: &mut [u8]) -> Result<(), BadAccess> {
        assert!((1..=8).contains(&data.len()), "the transport bounds accesses");
        assert!(offset as usize + data.len() <= self.profile.bars[usize::from(bar)].size as usize);
        self.seen.lock().unwrap().accesses.push((bar, offset, data.len()));
        if offset == 0xf0 {
            return Err(BadAccess);
        }
        data.copy_from_slice(&self.registers[offset as usize..][..data.len()]);
        Ok(())
    }

    fn write(&mut self, bar: u8, offset: u32, data: &[u8]) -> Result<(), BadAccess> {
        assert!((1..=8).contains(&data.len()), "the transport bounds accesses");
        assert!(offset as usize + data.len() <= self.profile.bars[usize::from(bar)].size as usize);
        self.seen.lock().unwrap().accesses.push((bar, offset, data.len()));
        if offset == 0xf0 {
            return Err(BadAccess);
        }
        self.registers[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn bar_page(&self, bar: u8) -> Option<&SharedPage> {
        (bar == 0).then_some(&self.page)
    }

    fn set_map(&mut self, map: Arc<DmaMap>) {
        let mut seen = self.seen.lock().unwrap();
        seen.map = Some(map);
        seen.maps += 1;
    }

    fn reset(&mut self) {
        self.registers = [0; 256];
        self.seen.lock().unwrap().resets += 1;
    }

    fn link_changed(&mut self) {}

    fn ingress(&mut self) -> Vec<Box<dyn Ingress>> {
        Vec::new()
    }

    fn egress(&self) -> Arc<dyn Egress> {
        no_egress()
    }
}

fn no_egress() -> Arc<dyn Egress> {
    panic!("the transport never asks for the data path")
}

/// A card served by a thread that stands for the control thread.
pub struct Served {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub page: Arc<SharedPage>,
    pub seen: Arc<Mutex<Seen>>,
    pub state: Arc<PortState>,
    pub interrupts: Arc<Interrupts>,
    pub counters: Arc<Mutex<MessageCounters>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A card and what it shares with its test.
pub fn card(grace: Grace) -> (Card, Arc<SharedPage>, Arc<Mutex<Seen>>) {
    let page = Arc::new(SharedPage::new("bar0", 4096).unwrap());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let model = Box::new(TestCard::new(page.clone(), seen.clone()));
    let (state, interrupts) = (Arc::new(PortState::new()), Interrupts::new());
    (Card { name: "web1".into(), model, state, interrupts, grace }, page, seen)
}

impl Served {
    pub fn start() -> Served {
        Served::with_grace(Grace::new(0))
    }

    pub fn with_grace(grace: Grace) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web1.sock");
        let (card, page, seen) = card(grace);
        let (state, interrupts) = (card.state.clone(), card.interrupts.clone());
        let mut server = Server::bind(&path, card).unwrap();
        let (stop, counters) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(MessageCounters::default())));
        let (stopped, counted) = (stop.clone(), counters.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let mut fds = [PollFd::new(&server, PollFlags::IN)];
                let nap = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                let _ = poll(&mut fds, Some(&nap));
                while server.ready() == Progress::More {}
                *counted.lock().unwrap() = server.messages().clone();
            }
        });
        Served { dir, path, page, seen, state, interrupts, counters, stop, thread: Some(thread) }
    }

    /// Waits until `what` holds; the server's thread works in the meantime.
    pub fn until(&self, what: impl Fn(&Served) -> bool) {
        for _ in 0..500 {
            if what(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not come about");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            if !std::thread::panicking() {
                outcome.expect("the server's thread must not panic");
            }
        }
    }
}

/// A client that says what it is told to.
pub struct Raw {
    pub stream: UnixStream,
    next: u16,
}

/// A reply: header, payload, descriptors are not looked at.
pub type Answer = (Header, Vec<u8>);

pub fn bytes(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_ne_bytes()).collect()
}

impl Raw {
    pub fn connect(path: &Path) -> Raw {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Raw { stream, next: 0 }
    }

    pub fn negotiated(path: &Path) -> Raw {
        let mut raw = Raw::connect(path);
        let (header, _) = raw.ask(1, &[0, 0, 0, 0], &[]);
        assert_eq!(header.flags, Header::REPLY);
        raw
    }

    pub fn message(&mut self, command: u16, payload: &[u8], flags: u32) -> Vec<u8> {
        self.next = self.next.wrapping_add(1);
        let size = (16 + payload.len()) as u32;
        let mut out = Header { id: self.next, command, size, flags, error: 0 }.encode().to_vec();
        out.extend_from_slice(payload);
        out
    }

    pub fn send(&mut self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL).unwrap();
        self.stream.write_all(&message[sent..]).unwrap();
    }

    pub fn ask(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Answer {
        let message = self.message(command, payload, 0);
        self.send(&message, fds);
        let answer = self.answer();
        assert_eq!((answer.0.id, answer.0.command), (self.next, command), "the stream is in step");
        answer
    }

    /// Asks and returns the errno, 0 for success.
    pub fn errno(&mut self, command: u16, payload: &[u8], fds: &[BorrowedFd<'_>]) -> u32 {
        let (header, payload) = self.ask(command, payload, fds);
        let failed = header.flags & Header::ERROR != 0;
        assert_eq!(failed, header.error != 0, "an error has an errno");
        assert!(!failed || payload.is_empty());
        header.error
    }

    pub fn answer(&mut self) -> Answer {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).unwrap();
        let header = Header::decode(&head).unwrap();
        let mut payload = vec![0; header.size as usize - 16];
        self.stream.read_exact(&mut payload).unwrap();
        (header, payload)
    }

    /// True when the server closed the connection.
    pub fn closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    pub fn map(&mut self, iova: u64, len: u64, offset: u64, flags: u32, fds: &[BorrowedFd<'_>]) -> u32 {
        let mut payload = bytes(&[32, flags]);
        for field in [offset, iova, len] {
            payload.extend_from_slice(&field.to_ne_bytes());
        }
        self.errno(2, &payload, fds)
    }

    pub fn unmap(&mut self, iova: u64, len: u64, flags: u32) -> u32 {
        let payload = unmap(iova, len, flags);
        let (header, reply) = self.ask(3, &payload, &[]);
        assert!(header.error != 0 || reply == payload, "the reply echoes the request");
        header.error
    }

    pub fn read(&mut self, region: u32, offset: u64, count: u32) -> Result<Vec<u8>, u32> {
        let mut payload = offset.to_ne_bytes().to_vec();
        payload.extend(bytes(&[region, count]));
        let (header, reply) = self.ask(9, &payload, &[]);
        if header.error != 0 {
            return Err(header.error);
        }
        assert_eq!(reply[..16], payload);
        assert_eq!(reply.len(), 16 + count as usize);
        Ok(reply[16..].to_vec())
    }

    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> u32 {
        let payload = write(region, offset, data);
        self.errno(10, &payload, &[])
    }
}

pub fn unmap(iova: u64, len: u64, flags: u32) -> Vec<u8> {
    let mut payload = bytes(&[24, flags]);
    payload.extend_from_slice(&iova.to_ne_bytes());
    payload.extend_from_slice(&len.to_ne_bytes());
    payload
}

pub fn write(region: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = offset.to_ne_bytes().to_vec();
    payload.extend(bytes(&[region, data.len() as u32]));
    payload.extend_from_slice(data);
    payload
}

/// SET_IRQS payload.
pub fn irqs(flags: u32, index: u32, start: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let mut payload = bytes(&[20 + data.len() as u32, flags, index, start, count]);
    payload.extend_from_slice(data);
    payload
}

pub fn memfd(len: u64) -> OwnedFd {
    let fd = memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, len).unwrap();
    fd
}

pub fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

/// What the eventfd counted since the last look.
pub fn taken(fd: &OwnedFd) -> u64 {
    let mut buf = [0; 8];
    match rustix::io::read(fd, &mut buf) {
        Ok(8) => u64::from_ne_bytes(buf),
        _ => 0,
    }
}

pub fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
}

pub fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(|fd| fd.as_fd()).collect()
}
