//! What a VMM says by vhost-user: messages of any values in any order, with any descriptors, cut anywhere, or bytes that are
//! none, against a whole server; and the polls and deliveries of the card that they make.
//!
//! Whatever came, the next VMM must find the server in order, and the VMM of another port must not notice.

mod protocol;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use dataplane::{Egress, Grace, Ingress, PortState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vnic::irq::Interrupts;
use vnic::vfio_user::Progress;
use vnic::vhost_user::{CardSetup, Mode, Server};

use crate::Input;
use crate::framing::{CALLS, Place, connect, send};
use crate::memory::{MEMORY, Memory};
use crate::network::{MAC, Source, Wire};
use crate::vfio_user::descriptor;
use protocol::{FEATURES, HEADER, LONGEST, PACKED, PROTOCOL, longs, request, words};

const STEPS: usize = 200;
/// Guest address of the first byte of memory, and the VMM's.
const BASE: u64 = 0x10_0000;
const USER: u64 = 0x7f00_0000_0000;
/// Offsets of the receive and the transmit ring, and what lies behind each other in them.
const RINGS: [u64; 2] = [0, 0x4000];
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const SIZE: u16 = 16;

thread_local! {
    static SOURCE: Source = Source::default();
}

/// One port's server and what its card shares with the switch.
struct Port {
    place: Place,
    server: Server,
    queues: Vec<Box<dyn Ingress>>,
    egress: Arc<dyn Egress>,
    state: Arc<PortState>,
}

impl Port {
    fn new(pairs: usize) -> Port {
        let (place, state) = (Place::fresh(), Arc::new(PortState::new()));
        state.set_link_up(true);
        let setup = CardSetup {
            name: "fuzz".into(),
            mac: MAC,
            mtu: 1500,
            pairs,
            state: state.clone(),
            interrupts: Interrupts::new(),
            grace: Grace::new(0),
        };
        let mut server = Server::bind(&place.0, setup, Mode::Server).expect("a fresh path");
        let (queues, egress) = (server.ingress(), server.egress());
        Port { place, server, queues, egress, state }
    }

    /// Calls the server until it waits for more, as its thread would: half a message must not keep that busy.
    fn serve(&mut self) {
        for _ in 0..CALLS {
            let idle = self.server.ready() == Progress::Idle;
            let mut fds = [PollFd::new(&self.server, PollFlags::IN)];
            if idle && poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("a poll") == 0 {
                return;
            }
        }
        panic!("the server always has more to do");
    }

    /// A VMM that asks for the features gets its answer, once nobody else is there.
    fn answers(&mut self) {
        self.serve();
        assert_eq!((self.server.connected(), self.state.connected()), (false, false), "nobody is there any more");
        let mut stream = connect(&self.place.0);
        self.serve();
        assert!(send(&stream, &words(&[request::GET_FEATURES, 1, 0]), &[]));
        self.serve();
        let mut answer = [0; HEADER + 8];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[..HEADER], words(&[request::GET_FEATURES, 5, 8]), "the next VMM is served");
        drop(stream);
        self.serve();
    }
}

/// A VMM and its guest.
struct Vmm {
    port: Port,
    memory: Memory,
    stream: UnixStream,
    /// What was received of answers.
    received: Vec<u8>,
    wire: Wire,
    features: u64,
    /// The VMM never shared what lies behind the guest's memory in the same file.
    fenced: bool,
}

impl Vmm {
    fn new(options: u8) -> Vmm {
        let (mut port, memory) = (Port::new(1 + usize::from(options & 1)), Memory::new(BASE));
        let stream = connect(&port.place.0);
        port.serve();
        let features = if options & 2 != 0 { FEATURES | PACKED } else { FEATURES };
        let wire = Wire::new(options >> 4);
        let mut vmm = Vmm { port, memory, stream, received: Vec::new(), wire, features, fenced: true };
        if options & 4 == 0 {
            vmm.negotiate();
        }
        if options & 8 == 0 {
            (0..2).for_each(|index| vmm.start(index));
        }
        vmm
    }

    /// Sends a whole message and has it served; the VMM that was cut off comes again.
    fn say(&mut self, code: u32, body: &[u8], fds: &[OwnedFd]) {
        let bytes = [words(&[code, 1 | 8, body.len() as u32]), body.to_vec()].concat();
        let open = send(&self.stream, &bytes, fds);
        self.port.serve();
        self.go_on(open);
    }

    fn descriptor(&self, kind: u8) -> Vec<OwnedFd> {
        descriptor(kind, &self.memory).into_iter().collect()
    }

    fn negotiate(&mut self) {
        self.say(request::SET_PROTOCOL_FEATURES, &longs(&[], &[PROTOCOL]), &[]);
        self.say(request::SET_FEATURES, &longs(&[], &[self.features]), &[]);
        let table = longs(&[1, 0], &[BASE, MEMORY as u64, USER, 0]);
        let fds = self.descriptor(0);
        self.say(request::SET_MEM_TABLE, &table, &fds);
    }

    /// Starts ring `index` with something in it, as a driver does: buffers in the receive ring, frames in the transmit ring.
    fn start(&mut self, index: u32) {
        let ring = RINGS[(index & 1) as usize];
        for n in 0..u64::from(SIZE) {
            let (len, flags): (u32, u16) = if index & 1 == 0 { (2048, 2) } else { (112, 0) };
            let (third, fourth) = if self.features & PACKED != 0 { (n as u16, flags | 1 << 7) } else { (flags, 0) };
            self.memory.put64(BASE + ring + 16 * n, BASE + BUFFERS + 2048 * n);
            self.memory.put32(BASE + ring + 16 * n + 8, len);
            self.memory.put32(BASE + ring + 16 * n + 12, u32::from(third) | u32::from(fourth) << 16);
            if self.features & PACKED == 0 {
                self.memory.put(BASE + ring + AVAIL + 4 + 2 * n, &(n as u16).to_le_bytes());
            }
        }
        self.memory.put32(BASE + ring + AVAIL, if self.features & PACKED == 0 { u32::from(SIZE) << 16 } else { 0 });
        self.memory.put(BASE + ring + USED, &[0; 4]);
        let base = if self.features & PACKED != 0 { 0x8000 } else { 0 };
        self.say(request::SET_VRING_NUM, &words(&[index, SIZE.into()]), &[]);
        self.say(request::SET_VRING_BASE, &words(&[index, base]), &[]);
        let at = USER + ring;
        self.say(request::SET_VRING_ADDR, &longs(&[index, 0], &[at, at + USED, at + AVAIL, 0]), &[]);
        for code in [request::SET_VRING_CALL, request::SET_VRING_KICK] {
            let fds = self.descriptor(2);
            self.say(code, &longs(&[], &[index.into()]), &fds);
        }
        self.say(request::SET_VRING_ENABLE, &words(&[index, 1]), &[]);
    }

    /// Reads what is there. Answers follow each other without a gap, each version 1 and an answer. Where the server closed
    /// the connection, or took no more, the VMM connects again.
    fn go_on(&mut self, mut open: bool) {
        let mut buffer = [0; 8192];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(n) => {
                    self.received.extend_from_slice(&buffer[..n]);
                    continue;
                }
                Err(error) => open &= error.kind() == std::io::ErrorKind::WouldBlock,
            }
            break;
        }
        while let Some(head) = self.received.first_chunk::<HEADER>() {
            let field = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let size = HEADER + field(8) as usize;
            assert!(field(4) & 7 == 5 && size <= LONGEST, "{head:x?} is no answer");
            assert!(self.received.len() >= size, "an answer comes whole");
            self.received.drain(..size);
        }
        assert!(self.received.is_empty(), "an answer comes whole");
        if !open {
            self.stream = connect(&self.port.place.0);
            self.port.serve();
        }
    }

    /// Notes what of the file a region of memory takes in.
    fn shares(&mut self, offset: u64, len: u64) {
        self.fenced &= offset.checked_add(len).is_some_and(|end| end <= MEMORY as u64);
    }

    /// A region of memory: guest address, size, the VMM's address, offset in the file.
    fn region(&mut self, input: &mut Input<'_>) -> [u64; 4] {
        let kind = input.u8();
        let page = |n: u8| u64::from(n) << 12;
        let region = match kind & 7 {
            0 => [input.u64(), input.u64(), input.u64(), input.u64()],
            1 => [BASE, MEMORY as u64, USER, page(input.u8())],
            2 | 3 => {
                let (at, pages) = (page(input.u8()), page(input.u8()));
                [BASE + at, pages, USER + at, at]
            }
            4 => [BASE + page(input.u8()), page(input.u8()), USER + page(input.u8()), page(input.u8())],
            _ => [BASE, MEMORY as u64, USER, 0],
        };
        self.shares(region[3], region[1]);
        region
    }

    /// An address of a ring's part, most often one that is aligned and there.
    fn place(input: &mut Input<'_>) -> u64 {
        let kind = input.u8();
        match kind & 7 {
            0 => input.u64(),
            1 => USER + MEMORY as u64 - u64::from(input.u8()) * 4,
            2 => BASE + u64::from(input.u16()) * 16,
            3 => USER + u64::from(input.u16()),
            _ => USER + u64::from(kind >> 3) * 0x1000,
        }
    }

    /// The body that goes with a request, of values that may be right.
    fn body(&mut self, code: u32, input: &mut Input<'_>) -> Vec<u8> {
        let index = |input: &mut Input<'_>| match input.u8() {
            255 => input.u32(),
            n => u32::from(n % 6),
        };
        match code {
            request::SET_FEATURES => match input.u8() & 3 {
                0 => longs(&[], &[input.u64()]),
                n => {
                    self.features = [0, FEATURES, FEATURES | PACKED, FEATURES | 1 << 29][usize::from(n)];
                    longs(&[], &[self.features])
                }
            },
            request::SET_PROTOCOL_FEATURES => longs(&[], &[PROTOCOL ^ u64::from(input.u16())]),
            request::SET_MEM_TABLE => {
                let (count, places) = (input.u8() % 4, input.u8() % 4);
                let regions: Vec<u64> = (0..count.max(places)).flat_map(|_| self.region(input)).collect();
                longs(&[count.into(), 0], &regions)
            }
            request::ADD_MEM_REG | request::REM_MEM_REG => longs(&[0, 0], &self.region(input)),
            request::SET_VRING_NUM => {
                let n = u32::from(input.u8());
                words(&[index(input), if n & 0x80 != 0 { input.u32() } else { 1 << (n % 17) }])
            }
            request::SET_VRING_BASE | request::GET_VRING_BASE => words(&[index(input), u32::from(input.u16())]),
            request::SET_VRING_ENABLE => words(&[index(input), u32::from(input.u8() % 5 % 3)]),
            request::SET_VRING_ADDR => {
                let head = [index(input), 0];
                longs(&head, &[Vmm::place(input), Vmm::place(input), Vmm::place(input), 0])
            }
            request::SET_VRING_KICK..=14 => {
                let (flag, index) = (u64::from(input.u8() & 1) << 8, index(input));
                longs(&[], &[u64::from(index) | flag])
            }
            request::GET_INFLIGHT_FD | request::SET_INFLIGHT_FD => {
                let (len, offset) = (u64::from(input.u16()) << 4, u64::from(input.u8() & 0x7f) << 12);
                // No more than the rings of two pairs need, of the most descriptors said here.
                self.shares(offset, len.max(1 << 19));
                let mut body = longs(&[], &[len, offset]);
                body.extend(u16::from(input.u8() % 7).to_le_bytes());
                body.extend((u16::from(input.u8()) << 2).to_le_bytes());
                body.resize(if len & 16 == 0 { 24 } else { 20 }, 0);
                body
            }
            _ => {
                let len = input.u8();
                input.bytes(usize::from(len)).to_vec()
            }
        }
    }

    /// A message with a true header, or with one of the input's, and any descriptors; cut somewhere.
    fn message(&mut self, input: &mut Input<'_>) {
        let (kind, code, kinds) = (input.u8(), u32::from(input.u8() % 45), input.u8());
        let body = self.body(code, input);
        let size = if kind & 7 == 7 { input.u32() } else { body.len() as u32 };
        let flags = if kind & 0x18 == 0x18 { input.u32() } else { 1 | u32::from(kind & 0x20) >> 2 };
        let mut bytes = words(&[code, flags, size]);
        bytes.extend(body);
        // A header that is not true makes a message of what comes after.
        self.fenced &= kind & 7 != 7;
        let fds: Vec<OwnedFd> = match kinds & 7 {
            // What such messages come with.
            0..4 => match code {
                request::SET_MEM_TABLE => {
                    (0..bytes.get(HEADER).copied().unwrap_or(0)).flat_map(|_| self.descriptor(0)).collect()
                }
                request::ADD_MEM_REG | request::SET_INFLIGHT_FD => self.descriptor(0),
                request::SET_VRING_KICK..=14 => self.descriptor(2),
                _ => Vec::new(),
            },
            n => (0..n - 4).flat_map(|i| self.descriptor((kinds >> 3).rotate_right(u32::from(i)))).collect(),
        };
        let cut = if kind & 0x40 != 0 { usize::from(input.u8()).min(bytes.len()) } else { bytes.len() };
        let mut open = send(&self.stream, &bytes[..cut], &fds);
        if cut < bytes.len() {
            if kind & 0x80 != 0 {
                self.port.serve();
            }
            open &= send(&self.stream, &bytes[cut..], &[]);
        }
        if kind & 0x80 != 0 {
            self.port.serve();
            self.go_on(open);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0..8 => self.message(input),
            8 => {
                let (len, kinds) = (input.u8(), input.u8());
                // Some of it may be a memory table.
                self.fenced = false;
                let fds: Vec<OwnedFd> = (0..kinds >> 6).flat_map(|_| self.descriptor(kinds)).collect();
                let open = send(&self.stream, input.bytes(usize::from(len)), &fds);
                self.port.serve();
                self.go_on(open);
            }
            9 => {
                self.port.serve();
                self.go_on(true);
            }
            10 | 11 => {
                for queue in &mut self.port.queues {
                    self.wire.poll(queue.as_mut());
                }
            }
            12 => {
                let which = input.u8();
                SOURCE.with(|source| source.deliver(&*self.port.egress, which, None));
            }
            13 => self.memory.put32(BASE + u64::from(input.u16() & 0x1fff) * 4, input.u32()),
            14 => self.start(u32::from(input.u8() % 4)),
            _ => self.rare(input),
        }
    }

    fn rare(&mut self, input: &mut Input<'_>) {
        match input.u8() % 6 {
            0 => self.memory.shrink(),
            1 => self.port.queues.iter_mut().for_each(|queue| drop(queue.arm())),
            2 => self.port.queues.iter_mut().for_each(|queue| queue.disarm()),
            3 => {
                self.go_on(false);
                self.received.clear();
            }
            4 => self.negotiate(),
            _ => drop(connect(&self.port.place.0)),
        }
    }
}

/// Runs one input.
///
/// # Panics
/// When the server does not come to rest, sends what is no answer, writes memory that is not the guest's, or does not serve the
/// next VMM or another port's.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut other = Port::new(1);
    let mut vmm = Vmm::new(input.u8());
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        vmm.step(&mut input);
    }
    other.answers();
    for queue in &mut vmm.port.queues {
        vmm.wire.poll(queue.as_mut());
    }
    let Vmm { mut port, memory, stream, fenced, .. } = vmm;
    drop(stream);
    port.answers();
    if fenced {
        memory.check();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every input starts from is a card that works: else hardly any would get as far as the rings.
    #[test]
    fn the_beginning_is_that_of_a_decent_driver() {
        for options in 0..4 {
            let mut vmm = Vmm::new(options);
            assert_eq!(vmm.wire.poll(vmm.port.queues[0].as_mut()), usize::from(SIZE), "options {options}");
            SOURCE.with(|source| source.deliver(&*vmm.port.egress, 1, None));
            let ring = BASE + RINGS[0];
            let used =
                if options & 2 == 0 { vmm.memory.get16(ring + USED + 2) } else { vmm.memory.get16(ring + 14) >> 15 };
            assert!(used > 0, "options {options}");
            assert!(vmm.port.state.connected());
        }
    }
}
