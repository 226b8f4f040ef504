//! What a VMM writes to the socket: bytes and descriptors, cut anywhere, against a whole server.
//!
//! Whatever came, the next VMM must find the server in order.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vnic::vfio_user::{HEADER, Header, MAX_MESSAGE, Progress, Server};

use crate::Input;
use crate::layout::BASE;
use crate::memory::Memory;
use crate::vfio_user::{card, descriptor};

const STEPS: usize = 200;
/// Calls of [`Server::ready`] after which there must be nothing left of what one run can send.
pub const CALLS: usize = 10_000;

/// A socket path of this run, gone afterwards.
pub struct Place(pub PathBuf);

impl Place {
    /// One that no other run has.
    pub fn fresh() -> Place {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("vswitch-fuzz-{}-{}.sock", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Place(std::env::temp_dir().join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn serve(server: &mut Server) {
    for _ in 0..CALLS {
        if server.ready() == Progress::Idle {
            return;
        }
    }
    panic!("the server always has more to do");
}

/// Connects to a server, to read what is there and no more.
///
/// # Panics
/// When nobody listens.
pub fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the server listens");
    stream.set_nonblocking(true).expect("a socket");
    stream
}

/// Sends what the socket takes; false when the peer has gone.
///
/// # Panics
/// With more descriptors than a message may have.
pub fn send(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> bool {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    !matches!(sent, Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET))
}

/// Answers received so far: their headers must follow each other without a gap.
#[derive(Default)]
struct Answers(Vec<u8>);

impl Answers {
    /// Reads what is there; false when the server closed the connection.
    fn take(&mut self, stream: &mut UnixStream) -> bool {
        let mut buffer = [0; 8192];
        let open = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break false,
                Ok(n) => self.0.extend_from_slice(&buffer[..n]),
                Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
            }
        };
        while let Some(header) = Header::decode(&self.0) {
            let size = header.size as usize;
            assert!(header.flags & Header::TYPE == Header::REPLY && (HEADER..=MAX_MESSAGE).contains(&size));
            if size > self.0.len() {
                break;
            }
            self.0.drain(..size);
        }
        open
    }
}

/// One message with a true header, or with a header of the input's.
fn message(input: &mut Input<'_>) -> Vec<u8> {
    let (kind, len) = (input.u8(), usize::from(input.u8()));
    let command = u16::from(input.u8() % 16);
    let size = if kind & 7 == 7 { input.u32() } else { (HEADER + len) as u32 };
    let flags = if kind & 0x18 == 0x18 { input.u32() } else { u32::from(kind >> 5 & 1) << 4 };
    let mut out = Header { id: 7, command, size, flags, error: 0 }.encode().to_vec();
    out.extend_from_slice(input.bytes(len));
    out.resize(HEADER + len, 0);
    out
}

/// Runs one input.
///
/// # Panics
/// When the server does not come to rest, sends what is no answer, or does not serve the next VMM.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let place = Place::fresh();
    let options = input.u8();
    let mut server = Server::bind(&place.0, card(options & 1 != 0)).expect("a fresh path");
    let memory = Memory::new(BASE);
    let mut stream = connect(&place.0);
    let mut answers = Answers::default();
    if options & 2 == 0 {
        send(&stream, &Header { id: 1, command: 1, size: 20, flags: 0, error: 0 }.encode(), &[]);
        send(&stream, &[0; 4], &[]);
    }
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let op = input.u8();
        let fds: Vec<OwnedFd> = (0..op >> 4).filter_map(|_| descriptor(op >> 2, &memory)).collect();
        let open = match op % 4 {
            0 => {
                let len = usize::from(input.u8());
                send(&stream, input.bytes(len), &fds)
            }
            1 | 2 => {
                let message = message(&mut input);
                let cut = usize::from(input.u8()).min(message.len());
                let first = send(&stream, &message[..cut], &fds);
                if op & 8 != 0 {
                    serve(&mut server);
                }
                first && (cut == message.len() || send(&stream, &message[cut..], &[]))
            }
            _ => {
                serve(&mut server);
                answers.take(&mut stream)
            }
        };
        if !open {
            answers = Answers::default();
            stream = connect(&place.0);
        }
    }
    serve(&mut server);
    answers.take(&mut stream);
    drop(stream);
    good_vmm(&mut server, &place.0);
    memory.check();
}

/// A well-behaved VMM gets the answer to its first message.
fn good_vmm(server: &mut Server, path: &Path) {
    serve(server);
    let mut stream = connect(path);
    serve(server);
    let hello = [&Header { id: 9, command: 1, size: 20, flags: 0, error: 0 }.encode()[..], &[0; 4]].concat();
    assert!(send(&stream, &hello, &[]));
    serve(server);
    let mut head = [0; HEADER];
    stream.read_exact(&mut head).expect("an answer");
    let header = Header::decode(&head).expect("a header");
    assert_eq!((header.id, header.flags, header.error), (9, Header::REPLY, 0), "the next VMM is served");
}
