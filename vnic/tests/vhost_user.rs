//! What no good VMM sends, over the real socket: it costs that VMM its connection, and nobody else anything.

#[path = "hostile/vhost_user.rs"]
mod hostile;
#[path = "../../sharedmem/tests/huge/mod.rs"]
mod huge;

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::{Burst, Delivery, Egress, Grace, Ingress, Offload, PortState, Sink, Tally};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use sharedmem::{DriverRing, Region};
use vnic::irq::Interrupts;
use vnic::vfio_user::Progress;
use vnic::vhost_user::{CardSetup, Mode, Server};
use wire::Mac;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const GET_INFLIGHT_FD: u32 = 31;
const SET_INFLIGHT_FD: u32 = 32;
/// `VIRTIO_F_VERSION_1`, `VIRTIO_NET_F_MRG_RXBUF`, `VHOST_USER_F_PROTOCOL_FEATURES`.
const FEATURES: u64 = 1 << 32 | 1 << 15 | 1 << 30;
const REPLY_ACK: u64 = 1 << 3;
const INFLIGHT_SHMFD: u64 = 1 << 12;
const NEED_REPLY: u32 = 8;
/// However busy the machine, what is to happen happens within this.
const PATIENCE: Duration = Duration::from_secs(30);

const GUEST: u64 = 0x1000_0000;
const USER: u64 = 0x7f00_0000_0000;
const MEMORY: usize = 1 << 20;
const TX_RING: usize = 0;
const RX_RING: usize = 0x4000;
const TX_BUFFERS: usize = 0x2_0000;
const RX_BUFFERS: usize = 0x6_0000;
const SIZE: u16 = 64;

type Queues = Mutex<(Box<dyn Ingress>, Arc<dyn Egress>)>;

/// Two cards, `a` and `b`, on one thread that stands for the control thread.
struct Served {
    dir: tempfile::TempDir,
    turns: Arc<AtomicU64>,
    connected: [Arc<PortState>; 2],
    queues: [Arc<Queues>; 2],
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn card(path: &Path, name: &str, grace: &Grace) -> (Server, Arc<PortState>) {
    let state = Arc::new(PortState::new());
    state.set_link_up(true);
    let setup = CardSetup {
        name: name.into(),
        mac: Mac([0, 0x50, 0x56, 0, 0, 1]),
        mtu: 1500,
        pairs: 1,
        state: state.clone(),
        interrupts: Interrupts::new(),
        grace: grace.clone(),
    };
    (Server::bind(path, setup, Mode::Server).unwrap(), state)
}

impl Served {
    fn start(grace: &Grace) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let (mut a, state_a) = card(&dir.path().join("a"), "a", grace);
        let (mut b, state_b) = card(&dir.path().join("b"), "b", grace);
        let queues = [&mut a, &mut b].map(|s| Arc::new(Mutex::new((s.ingress().remove(0), s.egress()))));
        let (turns, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (turns.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let mut fds = [PollFd::new(&a, PollFlags::IN), PollFd::new(&b, PollFlags::IN)];
                let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }));
                for server in [&mut a, &mut b] {
                    while server.ready() == Progress::More {}
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Served { dir, turns, connected: [state_a, state_b], queues, stop, thread: Some(thread) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the server's thread has ended");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The watchdog: the thread goes round, and the other card answers.
    fn others_go_on(&self) {
        let before = self.turns.load(Ordering::SeqCst);
        self.until("the control thread goes round", || self.turns.load(Ordering::SeqCst) > before + 2);
        let mut other = Peer::connect(&self.path("b"));
        assert!(other.ask(GET_FEATURES, &[], &[]).is_some(), "the other port answers");
        drop(other);
        self.until("the other port is free again", || !self.connected[1].connected());
    }

    /// Waits until card `a` is free, and expects that a good driver gets on with it.
    fn usable_again(&self) {
        self.until("the port is free again", || !self.connected[0].connected());
        let mut peer = Peer::connect(&self.path("a"));
        peer.run();
        peer.post(3);
        assert_eq!(self.poll(), 3, "frames of the next one");
        drop(peer);
        self.until("the port is free again", || !self.connected[0].connected());
    }

    /// Serves card `a`'s transmit queue until it is empty; returns the frames.
    fn poll(&self) -> usize {
        let mut sink = Count(0);
        let mut queues = self.queues[0].lock().unwrap();
        while queues.0.poll(&mut sink) > 0 {}
        sink.0
    }

    /// Delivers a frame to card `a`.
    fn deliver(&self) {
        let queues = self.queues[0].lock().unwrap();
        deliver(&*queues.1);
    }
}

fn deliver(egress: &dyn Egress) {
    let file = memfd(4096);
    let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
    let mut burst = Burst::new();
    burst.push(&[region.slice(0, 200).unwrap()], None, Offload::default());
    egress.deliver(&burst, &[Delivery::new(0, None)], &mut Tally::new());
}

struct Count(usize);

impl Sink for Count {
    fn forward(&mut self, burst: &Burst<'_>) {
        self.0 += burst.frames().len();
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

fn memfd(len: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    fd
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

fn words(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_le_bytes()).collect()
}

fn longs(fields: &[u64]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_le_bytes()).collect()
}

fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    [words(&[request, 1 | flags, body.len() as u32]), body.to_vec()].concat()
}

/// A VMM that says what it is told to, with a driver behind it.
struct Peer {
    stream: UnixStream,
    memory: OwnedFd,
    tx: DriverRing,
    rx: DriverRing,
    next: u16,
}

impl Peer {
    fn connect(path: &Path) -> Peer {
        Peer::with_memory(path, memfd(MEMORY as u64))
    }

    fn with_memory(path: &Path, memory: OwnedFd) -> Peer {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let region = Region::map(memory.as_fd(), 0, MEMORY, true).unwrap();
        let (tx, ..) = DriverRing::new(SIZE, (&region, TX_RING)).unwrap();
        let (rx, ..) = DriverRing::new(SIZE, (&region, RX_RING)).unwrap();
        Peer { stream, memory, tx, rx, next: 0 }
    }

    /// Sends as much as the other end takes; it may have closed.
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        if let Ok(sent) = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            let _ = self.stream.write_all(&bytes[sent..]);
        }
    }

    /// The body of the next answer; `None` when the connection is closed.
    fn answer(&mut self) -> Option<Vec<u8>> {
        self.reply().map(|(_, body)| body)
    }

    /// The next answer: to which request, and its body.
    fn reply(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).ok()?;
        assert_eq!(u32::from_le_bytes(header[4..8].try_into().unwrap()) & 7, 5, "version 1, an answer");
        let mut body = vec![0; u32::from_le_bytes(header[8..].try_into().unwrap()) as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some((u32::from_le_bytes(header[..4].try_into().unwrap()), body))
    }

    fn ask(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Vec<u8>> {
        self.send(&message(request, 0, body), fds);
        self.answer()
    }

    /// Sends a message and waits for the word on it: true when it was accepted. The peer may be cut off for it.
    fn accepted(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send(&message(request, NEED_REPLY, body), fds);
        self.answer().is_some_and(|body| body == [0; 8])
    }

    fn must(&mut self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        assert!(self.accepted(request, body, fds), "request {request}");
    }

    /// Owner, features and memory.
    fn negotiate(&mut self) {
        self.agree();
        let memory = self.memory.try_clone().unwrap();
        self.must(SET_MEM_TABLE, &table(&[[GUEST, MEMORY as u64, USER, 0]]), &[memory.as_fd()]);
    }

    /// Owner and features.
    fn agree(&mut self) {
        self.ask(GET_FEATURES, &[], &[]).unwrap();
        self.ask(GET_PROTOCOL_FEATURES, &[], &[]).unwrap();
        self.send(&message(SET_PROTOCOL_FEATURES, 0, &longs(&[REPLY_ACK | INFLIGHT_SHMFD])), &[]);
        self.must(SET_OWNER, &[], &[]);
        self.must(SET_FEATURES, &longs(&[FEATURES]), &[]);
    }

    fn ring(&mut self, index: u32, at: usize, base: u32) {
        let (start, n) = (USER + at as u64, u64::from(SIZE));
        let avail = start + 16 * n;
        let used = avail + (6 + 2 * n).next_multiple_of(64);
        self.must(SET_VRING_NUM, &words(&[index, SIZE.into()]), &[]);
        self.must(SET_VRING_BASE, &words(&[index, base]), &[]);
        self.must(SET_VRING_ADDR, &addresses(index, [start, used, avail]), &[]);
        let fds = [event(), event()];
        self.must(SET_VRING_CALL, &longs(&[index.into()]), &[fds[0].as_fd()]);
        self.must(SET_VRING_KICK, &longs(&[index.into()]), &[fds[1].as_fd()]);
        self.must(SET_VRING_ENABLE, &words(&[index, 1]), &[]);
    }

    /// Starts the card with all receive buffers given.
    fn run(&mut self) {
        self.negotiate();
        for n in 0..SIZE {
            self.rx.write_desc(n, GUEST + RX_BUFFERS as u64 + u64::from(n) * 2048, 2048, 2, 0);
            self.rx.set_avail(n, n);
        }
        self.rx.publish(SIZE);
        self.ring(0, RX_RING, 0);
        self.ring(1, TX_RING, 0);
    }

    /// Sends `count` frames.
    fn post(&mut self, count: u16) {
        for _ in 0..count {
            let n = self.next % SIZE;
            self.tx.write_desc(n, GUEST + TX_BUFFERS as u64 + u64::from(n) * 2048, 112, 0, 0);
            self.tx.set_avail(self.next, n);
            self.next = self.next.wrapping_add(1);
        }
        self.tx.publish(self.next);
    }
}

/// The body of SET_MEM_TABLE: guest address, size, user address, offset of each region.
fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    [words(&[regions.len() as u32, 0]), longs(regions.as_flattened())].concat()
}

/// The body of SET_VRING_ADDR: descriptors, used, available.
fn addresses(index: u32, [descriptors, used, available]: [u64; 3]) -> Vec<u8> {
    [words(&[index, 0]), longs(&[descriptors, used, available, 0])].concat()
}

#[test]
fn a_message_in_pieces_waits_for_its_rest() {
    let served = Served::start(&Grace::new(0));
    let mut peer = Peer::connect(&served.path("a"));
    let whole = message(SET_FEATURES, 0, &longs(&[FEATURES]));
    for cut in 1..whole.len() {
        peer.send(&whole[..cut], &[]);
        if cut % 5 == 0 {
            served.others_go_on();
        }
        peer.send(&whole[cut..], &[]);
        assert_eq!(peer.ask(GET_FEATURES, &[], &[]).unwrap().len(), 8, "cut at {cut}");
    }
    drop(peer);
    served.until("the port is free again", || !served.connected[0].connected());
    // One that ends in the middle of a message, before and behind its header's end, is gone all the same.
    for cut in [5, 12, 15] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.send(&whole[..cut], &[]);
        served.until("it is let in", || served.connected[0].connected());
        served.others_go_on();
        drop(peer);
        served.usable_again();
    }
}

/// Part of a message does not keep the control thread busy: its descriptor is not readable again until more comes.
#[test]
fn half_a_message_is_looked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, state) = card(&dir.path().join("a"), "a", &Grace::new(0));
    let readable = |server: &Server, nap: i64| {
        let mut fds = [PollFd::new(server, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: nap, tv_nsec: 0 })).unwrap() == 1
    };
    let mut peer = Peer::connect(&dir.path().join("a"));
    assert!(readable(&server, 30));
    while server.ready() == Progress::More {}
    assert!(state.connected());
    for half in message(GET_FEATURES, 0, &[]).chunks(4) {
        peer.send(half, &[]);
        assert!(readable(&server, 30), "something came");
        while server.ready() == Progress::More {}
        assert!(!readable(&server, 0), "it has been looked at");
    }
    assert!(peer.answer().is_some());
    // More at once than one call serves.
    peer.send(&message(SET_OWNER, 0, &[]).repeat(150), &[]);
    while server.ready() == Progress::More {}
    assert_eq!(server.messages(), 151);
    drop(peer);
    assert!(readable(&server, 30), "the end of it");
    while server.ready() == Progress::More {}
    assert!(!server.connected());
}

#[test]
fn a_card_can_be_enabled_before_its_features_are_known() {
    let served = Served::start(&Grace::new(0));
    let mut peer = Peer::connect(&served.path("a"));
    // As QEMU does it when it makes the card.
    for index in 0..2 {
        peer.send(&message(SET_VRING_ENABLE, 0, &words(&[index, 1])), &[]);
    }
    peer.run();
    peer.post(4);
    assert_eq!(served.poll(), 4);
    peer.must(SET_VRING_ENABLE, &words(&[1, 0]), &[]);
    peer.post(4);
    assert_eq!(served.poll(), 0, "disabled");
    peer.must(SET_VRING_ENABLE, &words(&[1, 1]), &[]);
    assert_eq!(served.poll(), 4);
    assert!(!peer.accepted(SET_VRING_ENABLE, &words(&[2, 1]), &[]), "there is no third queue");
    drop(peer);
    let mut peer = Peer::connect(&served.path("a"));
    peer.negotiate();
    assert!(!peer.accepted(SET_VRING_ENABLE, &words(&[0, 2]), &[]), "neither on nor off");
    drop(peer);
    served.usable_again();
}

#[test]
fn nonsense_ends_the_connection() {
    let served = Served::start(&Grace::new(0));
    for header in [
        words(&[GET_FEATURES, 1, u32::MAX]),
        words(&[GET_FEATURES, 1, 4097]),
        words(&[0, 1, 0]),
        words(&[4711, 1, 0]),
        words(&[u32::MAX, 1, 0]),
        words(&[GET_FEATURES, 2, 0]),
        words(&[SET_FEATURES, 1, 0]),
        words(&[SET_VRING_ENABLE, 1, 0]),
        [words(&[SET_FEATURES, 1, 9]), vec![0; 9]].concat(),
        [words(&[SET_MEM_TABLE, 1, 8]), words(&[9, 0])].concat(),
    ] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.send(&header, &[]);
        assert_eq!(peer.answer(), None, "{header:x?}");
        served.usable_again();
    }
    let mut seed = 88_172_645_463_325_252u64;
    for round in 0..60 {
        let mut peer = Peer::connect(&served.path("a"));
        if round % 2 == 0 {
            peer.negotiate();
        }
        let mut bytes = vec![0; 700];
        for byte in &mut bytes {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            *byte = seed as u8;
        }
        // Half of them look like a message for a start.
        if round % 4 < 2 {
            bytes[..12].copy_from_slice(&words(&[1 + round % 40, 1, 40]));
        }
        let fd = event();
        peer.send(&bytes, &[fd.as_fd()]);
        served.others_go_on();
        drop(peer);
        served.until("the port is free again", || !served.connected[0].connected());
    }
    served.usable_again();
}

#[test]
fn answers_left_unread_block_nobody() {
    let served = Served::start(&Grace::new(0));
    let mut peer = Peer::connect(&served.path("a"));
    let ask = message(GET_FEATURES, 0, &[]);
    served.until("it is let in", || served.connected[0].connected());
    for _ in 0..400 {
        peer.send(&ask.repeat(50), &[]);
        if !served.connected[0].connected() {
            break;
        }
    }
    served.others_go_on();
    served.until("it was cut off", || !served.connected[0].connected());
    served.usable_again();
}

#[test]
fn memory_that_is_not_there() {
    let served = Served::start(&Grace::new(0));
    let size = MEMORY as u64;
    for region in [
        [GUEST, size, USER, 1],
        [GUEST, size, USER, 4096],
        [GUEST, size + 1, USER, 0],
        [GUEST, 0, USER, 0],
        [GUEST, u64::MAX, USER, 0],
        [GUEST, size, USER, u64::MAX],
        [u64::MAX - 100, size, USER, 0],
        [GUEST, size, u64::MAX - 100, 0],
        [GUEST, 1 << 46, USER, 0],
    ] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.agree();
        let memory = peer.memory.try_clone().unwrap();
        assert!(!peer.accepted(SET_MEM_TABLE, &table(&[region]), &[memory.as_fd()]), "{region:x?}");
        drop(peer);
        served.usable_again();
    }
    // Two that overlap, one without a descriptor, one that is no memory.
    let twice = table(&[[GUEST, size, USER, 0], [GUEST + 4096, size - 4096, USER + size, 0]]);
    let event = event();
    for (body, fds) in [(&twice, 2), (&twice, 1), (&table(&[[GUEST, size, USER, 0]]), 0)] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.agree();
        let memory = peer.memory.try_clone().unwrap();
        assert!(!peer.accepted(SET_MEM_TABLE, body, &vec![memory.as_fd(); fds]));
        drop(peer);
        served.usable_again();
    }
    let mut peer = Peer::connect(&served.path("a"));
    peer.agree();
    assert!(!peer.accepted(SET_MEM_TABLE, &table(&[[GUEST, size, USER, 0]]), &[event.as_fd()]));
    drop(peer);
    served.usable_again();
}

#[test]
fn rings_that_are_not_there() {
    let served = Served::start(&Grace::new(0));
    let end = USER + MEMORY as u64;
    for places in [
        [0, 0, 0],
        [USER + 8, USER + 0x1000, USER + 0x2000],
        [USER, USER + 0x1001, USER + 0x2000],
        [USER, USER + 0x1000, USER + 0x2001],
        [end - 16, USER, USER + 0x1000],
        [USER, end - 4, USER + 0x1000],
        [USER, USER + 0x1000, end],
        [u64::MAX - 15, u64::MAX - 3, u64::MAX - 1],
        [GUEST, GUEST + 0x1000, GUEST + 0x2000],
    ] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.run();
        peer.post(5);
        // Accepted or not: nothing is taken from there.
        let _ = peer.accepted(SET_VRING_ADDR, &addresses(1, places), &[]);
        let _ = peer.accepted(SET_VRING_ADDR, &addresses(0, places), &[]);
        assert_eq!(served.poll(), 0, "{places:x?}");
        served.deliver();
        assert_eq!(peer.rx.used_idx(), 0, "{places:x?}");
        drop(peer);
        served.usable_again();
    }
    for (index, num) in [(0, 0), (0, 3), (0, 65_536), (0, 65_537), (0, u32::MAX), (2, 64), (u32::MAX, 64)] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.negotiate();
        assert!(!peer.accepted(SET_VRING_NUM, &words(&[index, num]), &[]), "{num} descriptors of ring {index}");
        drop(peer);
        served.usable_again();
    }
}

#[test]
fn memory_taken_away_under_the_rings() {
    let served = Served::start(&Grace::new(0));
    for left in [0, 0x4000, TX_BUFFERS as u64] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.run();
        peer.post(5);
        ftruncate(&peer.memory, left).unwrap();
        served.poll();
        served.deliver();
        served.poll();
        served.deliver();
        served.others_go_on();
        drop(peer);
        served.usable_again();
    }
}

/// Memory on huge pages is as good as any, also half a page of it, and a VMM that takes it back harms only itself.
#[test]
fn memory_on_huge_pages() {
    let _pages = huge::HugePages::reserve(1);
    let served = Served::start(&Grace::new(0));
    for left in [true, false] {
        let mut peer = Peer::with_memory(&served.path("a"), huge::memfd(1));
        peer.run();
        peer.post(5);
        assert_eq!(served.poll(), 5);
        served.deliver();
        assert_eq!((peer.tx.used_idx(), peer.rx.used_idx()), (5, 1));
        peer.post(5);
        if !left {
            ftruncate(&peer.memory, 0).unwrap();
            // The look that finds it goes on with zeros; after that the port is out of use.
            served.poll();
            served.deliver();
            assert_eq!(served.poll(), 0);
            served.others_go_on();
        }
        drop(peer);
        served.usable_again();
    }
}

/// A ring that makes no sense stops its queue and no other, and the VMM hears of it, once. Set up anew it goes on.
#[test]
fn a_broken_ring_stops_its_queue_alone() {
    let served = Served::start(&Grace::new(0));
    let counted = |event: &OwnedFd| {
        let mut bytes = [0; 8];
        rustix::io::read(event, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    };
    for broken in [1u32, 0] {
        let mut peer = Peer::connect(&served.path("a"));
        peer.run();
        let errors = [event(), event()];
        for (index, error) in (0u64..).zip(&errors) {
            peer.must(SET_VRING_ERR, &longs(&[index]), &[error.as_fd()]);
        }
        let ring = if broken == 1 { &peer.tx } else { &peer.rx };
        ring.publish(3 * SIZE);
        for _ in 0..3 {
            served.poll();
            served.deliver();
        }
        assert_eq!(errors.each_ref().map(counted), [u64::from(broken == 0), u64::from(broken == 1)]);
        if broken == 1 {
            assert_eq!((peer.tx.used_idx(), peer.rx.used_idx()), (0, 3), "it still receives");
        } else {
            peer.post(2);
            assert_eq!(served.poll(), 2, "it still sends");
            assert_eq!(peer.rx.used_idx(), 0);
        }
        let ring = if broken == 1 { &peer.tx } else { &peer.rx };
        ring.publish(SIZE);
        let base = peer.ask(GET_VRING_BASE, &words(&[broken, 0]), &[]).unwrap();
        assert_eq!(base, words(&[broken, 0]), "nothing of it was used");
        peer.ring(broken, if broken == 1 { TX_RING } else { RX_RING }, 0);
        if broken == 1 {
            peer.post(2);
            assert_eq!(served.poll(), 2);
        } else {
            served.deliver();
            assert_eq!(peer.rx.used_idx(), 1);
        }
        assert_eq!(errors.each_ref().map(counted), [0, 0]);
        drop(peer);
        served.usable_again();
    }
}

#[test]
fn a_second_vmm_is_turned_away() {
    let served = Served::start(&Grace::new(0));
    let mut first = Peer::connect(&served.path("a"));
    first.run();
    for _ in 0..20 {
        let mut second = Peer::connect(&served.path("a"));
        assert_eq!(second.ask(GET_FEATURES, &[], &[]), None);
    }
    first.post(7);
    assert_eq!(served.poll(), 7, "the first does not notice");
    assert!(first.ask(GET_FEATURES, &[], &[]).is_some());
    drop(first);
    served.usable_again();
}

#[test]
fn a_ring_goes_on_where_it_stopped() {
    let served = Served::start(&Grace::new(0));
    let mut peer = Peer::connect(&served.path("a"));
    peer.run();
    let base = |peer: &mut Peer, index: u32| peer.ask(GET_VRING_BASE, &words(&[index, 0]), &[]).unwrap();
    let mut sent = 0u32;
    for round in 0..5 {
        // Frames that wait when the ring stops are not lost.
        peer.post(20);
        assert_eq!(served.poll(), 20);
        served.deliver();
        sent += 20;
        peer.post(3);
        assert_eq!(base(&mut peer, 1), words(&[1, sent]));
        assert_eq!(base(&mut peer, 0), words(&[0, round + 1]));
        assert_eq!(served.poll(), 0, "stopped");
        peer.ring(1, TX_RING, sent);
        peer.ring(0, RX_RING, round + 1);
        assert_eq!(served.poll(), 3);
        sent += 3;
        assert_eq!(u32::from(peer.tx.used_idx()), sent);
        assert_eq!(u32::from(peer.rx.used_idx()), round + 1);
    }
}

/// The switch crashed, or a VMM restores a ring: whatever it says, the ring goes on behind what was used last.
#[test]
fn a_ring_goes_on_where_a_crash_left_it() {
    let served = Served::start(&Grace::new(0));
    let mut peer = Peer::connect(&served.path("a"));
    peer.run();
    peer.post(20);
    assert_eq!(served.poll(), 20);
    (0..3).for_each(|_| served.deliver());
    for base in [0, 23, 25, 60_000] {
        peer.post(5);
        let (memory, next) = (peer.memory.try_clone().unwrap(), peer.next);
        drop(peer);
        served.until("the port is free again", || !served.connected[0].connected());
        peer = Peer::with_memory(&served.path("a"), memory);
        peer.next = next;
        peer.negotiate();
        peer.ring(1, TX_RING, base);
        peer.ring(0, RX_RING, base);
        let before = (peer.tx.used_idx(), peer.rx.used_idx());
        assert_eq!(served.poll(), 5, "those that waited, once, though told {base}");
        served.deliver();
        assert_eq!((peer.tx.used_idx(), peer.rx.used_idx()), (before.0 + 5, before.1 + 1));
    }
}

/// The body of the messages about inflight memory: bytes, offset, rings, descriptors of each.
fn inflight(bytes: u64, offset: u64, rings: u16, size: u16) -> Vec<u8> {
    [longs(&[bytes, offset]), words(&[u32::from(rings) | u32::from(size) << 16, 0])].concat()
}

/// Asks for inflight memory; returns the answer and the file that came with it.
fn inflight_file(peer: &mut Peer, rings: u16, size: u16) -> Option<(Vec<u8>, OwnedFd)> {
    peer.send(&message(GET_INFLIGHT_FD, 0, &inflight(0, 0, rings, size)), &[]);
    let (mut bytes, mut space) = ([0; 36], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&peer.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (got.bytes == bytes.len()).then(|| Some((bytes[12..].to_vec(), fd?)))?
}

#[test]
fn inflight_memory_is_made_kept_and_given_up() {
    let served = Served::start(&Grace::new(0));
    let mut peer = Peer::connect(&served.path("a"));
    peer.negotiate();
    let (body, file) = inflight_file(&mut peer, 2, SIZE).unwrap();
    let len = 2 * (16 + 16 * u64::from(SIZE)).next_multiple_of(64);
    assert_eq!(body, inflight(len, 0, 2, SIZE));
    assert!(ftruncate(&file, len - 1).is_err() && ftruncate(&file, len + 1).is_err(), "its length is sealed");
    let region = Region::map(file.as_fd(), 0, len as usize, true).unwrap();
    // Version, descriptors, used index of a ring.
    let told = |ring: usize| {
        let at = ring * (len / 2) as usize;
        [8, 10, 14].map(|field| region.slice(0, len as usize).unwrap().load_u16(at + field).unwrap())
    };
    // With the padding that compilers make, or as the protocol has it.
    peer.must(SET_INFLIGHT_FD, &body, &[file.as_fd()]);
    peer.must(SET_INFLIGHT_FD, &body[..20], &[file.as_fd()]);
    assert_eq!(told(0), [0, 0, 0]);
    peer.ring(0, RX_RING, 0);
    peer.ring(1, TX_RING, 0);
    assert_eq!([told(0), told(1)], [[1, SIZE, 0], [1, SIZE, 0]]);
    peer.post(9);
    assert_eq!(served.poll(), 9);
    // The next switch is told where the rings are, which it sees by the rings.
    let (memory, next) = (peer.memory.try_clone().unwrap(), peer.next);
    drop(peer);
    served.until("the port is free again", || !served.connected[0].connected());
    let mut peer = Peer::with_memory(&served.path("a"), memory);
    peer.next = next;
    peer.negotiate();
    peer.must(SET_INFLIGHT_FD, &body, &[file.as_fd()]);
    peer.ring(1, TX_RING, 0);
    assert_eq!(told(1), [1, SIZE, 9]);
    peer.post(2);
    assert_eq!(served.poll(), 2);
    // In order: the VMM knows where, and a driver that starts anew finds no trace of the one before.
    assert_eq!(peer.ask(GET_VRING_BASE, &words(&[1, 0]), &[]).unwrap(), words(&[1, 11]));
    assert_eq!([told(0)[0], told(1)[0]], [1, 0]);
    peer.ring(1, TX_RING, 11);
    assert_eq!(told(1), [1, SIZE, 11]);
    peer.post(1);
    assert_eq!(served.poll(), 1);
}

/// Memory that is none, or too little, or too much, ends the connection; what is in it, and that it goes, nothing.
#[test]
fn inflight_memory_of_hostile_vmms() {
    let served = Served::start(&Grace::new(0));
    let connect = || {
        let mut peer = Peer::connect(&served.path("a"));
        peer.negotiate();
        peer
    };
    for (rings, size) in [(0, 64), (4, 64), (u16::MAX, 64), (2, 0), (2, 32_769), (2, u16::MAX), (u16::MAX, u16::MAX)] {
        assert!(inflight_file(&mut connect(), rings, size).is_none(), "{rings} rings of {size}");
        served.others_go_on();
    }
    let mut unasked = Peer::connect(&served.path("a"));
    unasked.send(&message(SET_PROTOCOL_FEATURES, 0, &longs(&[REPLY_ACK])), &[]);
    assert!(inflight_file(&mut unasked, 2, 64).is_none(), "not agreed on");
    served.others_go_on();
    let page = memfd(4096);
    let pipe = rustix::pipe::pipe().unwrap().0;
    let proc = std::fs::File::open("/proc/self/status").unwrap();
    let cases: [(&str, Vec<u8>, Vec<BorrowedFd<'_>>); 11] = [
        ("no file", inflight(4096, 0, 2, 8), vec![]),
        ("two files", inflight(4096, 0, 2, 8), vec![page.as_fd(), page.as_fd()]),
        ("a pipe", inflight(4096, 0, 2, 8), vec![pipe.as_fd()]),
        ("a file of /proc", inflight(4096, 0, 2, 8), vec![proc.as_fd()]),
        ("a file that ends", inflight(1 << 20, 0, 2, 256), vec![page.as_fd()]),
        ("too few bytes", inflight(64, 0, 2, 8), vec![page.as_fd()]),
        ("an offset beyond the end", inflight(4096, 4096, 2, 8), vec![page.as_fd()]),
        ("an offset that overflows", inflight(4096, u64::MAX - 4095, 2, 8), vec![page.as_fd()]),
        ("an offset in a page", inflight(4096, 64, 2, 8), vec![page.as_fd()]),
        ("too many rings", inflight(4096, 0, 4, 8), vec![page.as_fd()]),
        ("half a message", inflight(4096, 0, 2, 8)[..16].to_vec(), vec![page.as_fd()]),
    ];
    for (what, body, files) in cases {
        assert!(!connect().accepted(SET_INFLIGHT_FD, &body, &files), "{what}");
        served.usable_again();
    }
    let mut peer = Peer::connect(&served.path("a"));
    peer.run();
    assert!(!peer.accepted(SET_INFLIGHT_FD, &inflight(4096, 0, 2, 8), &[page.as_fd()]), "rings run");
    drop(peer);
    served.usable_again();
    // Garbage in it, then none of it any more; also too small for the rings.
    for size in [SIZE, 8] {
        let file = memfd(4096);
        let region = Region::map(file.as_fd(), 0, 4096, true).unwrap();
        let noise: Vec<u8> = (0..4096).map(|i: u32| ((i * i) >> 3) as u8).collect();
        assert!(region.slice(0, 4096).unwrap().write_at(0, &noise));
        let mut peer = connect();
        peer.must(SET_INFLIGHT_FD, &inflight(4096, 0, 2, size), &[file.as_fd()]);
        for n in 0..2 {
            peer.ring(n, if n == 0 { RX_RING } else { TX_RING }, 0);
        }
        peer.post(5);
        assert_eq!(served.poll(), 5);
        ftruncate(&file, 0).unwrap();
        peer.post(5);
        assert_eq!(served.poll(), 5);
        assert!(peer.ask(GET_VRING_BASE, &words(&[1, 0]), &[]).is_some());
        drop(peer);
        served.usable_again();
    }
}

#[test]
fn vmms_come_and_go_under_traffic() {
    let grace = Grace::new(1);
    let ticker = grace.ticker(0).unwrap();
    let served = Served::start(&grace);
    let stop = Arc::new(AtomicBool::new(false));
    let worker = {
        let (queues, stop) = (served.queues[0].clone(), stop.clone());
        std::thread::spawn(move || {
            let mut sink = Count(0);
            while !stop.load(Ordering::SeqCst) {
                let mut queues = queues.lock().unwrap();
                queues.0.poll(&mut sink);
                deliver(&*queues.1);
                drop(queues);
                ticker.tick();
            }
            sink.0
        })
    };
    for round in 0..50 {
        let mut peer = Peer::connect(&served.path("a"));
        peer.run();
        peer.post(SIZE);
        if round % 3 == 0 {
            // Memory replaced while both rings run.
            let memory = peer.memory.try_clone().unwrap();
            peer.must(SET_MEM_TABLE, &table(&[[GUEST, MEMORY as u64, USER, 0]]), &[memory.as_fd()]);
        }
        served.until("something was sent", || peer.tx.used_idx() == SIZE);
        served.until("something was received", || peer.rx.used_idx() > 0);
        drop(peer);
        served.until("the port is free again", || !served.connected[0].connected());
    }
    served.others_go_on();
    stop.store(true, Ordering::SeqCst);
    assert_eq!(worker.join().unwrap(), 50 * usize::from(SIZE), "each frame once");
}
