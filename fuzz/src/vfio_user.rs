//! What a VMM sends: whole messages with payloads and descriptors, to a session over either card, with the guest's
//! polls and deliveries in between.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use dataplane::{Egress, Grace, Ingress, PortState};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, OFlags, ftruncate, memfd_create};
use vnic::device::DeviceModel;
use vnic::irq::Interrupts;
use vnic::vfio_user::{Card, HEADER, Header, MAX_DATA, Outgoing, Session};
use vnic::vlance::Vlance;
use vnic::vmxnet3::Vmxnet3;

use crate::Input;
use crate::layout::{AREA, BASE, Driver};
use crate::memory::{MEMORY, Memory};
use crate::network::{Source, Wire};
use crate::vmxnet3::setup;

const MESSAGES: usize = 300;
/// Bytes of the largest region of either card.
const LARGEST: u64 = 4096;

/// Command numbers of the specification.
mod command {
    pub const VERSION: u16 = 1;
    pub const DMA_MAP: u16 = 2;
    pub const DMA_UNMAP: u16 = 3;
    pub const GET_REGION_INFO: u16 = 5;
    pub const SET_IRQS: u16 = 8;
    pub const REGION_READ: u16 = 9;
    pub const REGION_WRITE: u16 = 10;
}

thread_local! {
    static SOURCE: Source = Source::default();
}

/// A session and what its card shares with the switch.
struct Vmm {
    session: Session,
    memory: Memory,
    queues: Vec<Box<dyn Ingress>>,
    egress: Arc<dyn Egress>,
    state: Arc<PortState>,
    wire: Wire,
    next: u16,
}

/// A card for a session or server: vlance or vmxnet3.
pub fn card(vlance: bool) -> Card {
    let (state, interrupts) = (Arc::new(PortState::new()), Interrupts::new());
    let setup = setup(&state, &interrupts);
    let model: Box<dyn DeviceModel> =
        if vlance { Box::new(Vlance::new(setup)) } else { Box::new(Vmxnet3::new(setup).expect("memory for a page")) };
    Card { name: "fuzz".into(), model, state, interrupts, grace: Grace::new(0) }
}

/// 32-bit fields as a payload.
pub fn words(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_ne_bytes()).collect()
}

fn longs(head: &[u32], fields: &[u64]) -> Vec<u8> {
    let mut out = words(head);
    out.extend(fields.iter().flat_map(|f| f.to_ne_bytes()));
    out
}

impl Vmm {
    fn new(options: u8) -> Vmm {
        let mut card = card(options & 1 != 0);
        let memory = Memory::new(BASE);
        // The driver's part is done beforehand: one write of the command register starts the card.
        Driver::lay_out(&memory, 1500, 5);
        let (queues, egress, state) = (card.model.ingress(), card.model.egress(), card.state.clone());
        let wire = Wire::new(options >> 4);
        let mut vmm = Vmm { session: Session::new(card), memory, queues, egress, state, wire, next: 0 };
        if options & 2 == 0 {
            vmm.send(command::VERSION, 0, &[0, 0, 0, 0], Vec::new());
        }
        if options & 4 == 0 {
            let fd = vmm.memory.fd().try_clone_to_owned().expect("a descriptor");
            vmm.send(command::DMA_MAP, 0, &longs(&[32, 3], &[0, BASE, MEMORY as u64]), vec![fd]);
        }
        vmm
    }

    /// Sends one message and checks the answer's form.
    fn send(&mut self, command: u16, flags: u32, payload: &[u8], fds: Vec<OwnedFd>) {
        self.next = self.next.wrapping_add(1);
        let size = (HEADER + payload.len()) as u32;
        let header = Header { id: self.next, command, size, flags, error: 0 };
        let answer = self.session.handle(&header, payload, fds);
        assert_eq!(answer.is_some(), flags & Header::NO_REPLY == 0, "an answer where one is wanted");
        if let Some(answer) = answer {
            check(&header, payload, &answer);
        }
    }

    fn map(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let (offset, iova, len) = if kind & 1 != 0 {
            (input.u64(), input.u64(), input.u64())
        } else {
            let page = |n: u8| u64::from(n) << 12;
            (page(input.u8()), BASE + page(input.u8()), page(input.u8()))
        };
        let payload = longs(&[32, u32::from(kind >> 1 & 3)], &[offset, iova, len]);
        let fds = self.descriptors(kind >> 3, input.u8());
        self.send(command::DMA_MAP, 0, &payload, fds);
    }

    fn unmap(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let (iova, len) = match kind & 7 {
            0 => (input.u64(), input.u64()),
            1 => (0, 0),
            2 => (BASE, MEMORY as u64),
            _ => (BASE + (u64::from(input.u8()) << 12), u64::from(input.u8()) << 12),
        };
        self.send(command::DMA_UNMAP, 0, &longs(&[24, u32::from(kind >> 3 & 3)], &[iova, len]), Vec::new());
    }

    fn irqs(&mut self, input: &mut Input<'_>) {
        let (flags, index, start, count) = (input.u8(), input.u8() & 7, input.u8() & 31, input.u8() & 31);
        let mut payload = words(&[20, flags.into(), index.into(), start.into(), count.into()]);
        let kinds = input.u8();
        let data = usize::from(kinds >> 4);
        payload.extend_from_slice(input.bytes(data));
        let fds = self.descriptors(kinds & 15, input.u8());
        self.send(command::SET_IRQS, 0, &payload, fds);
    }

    fn access(&mut self, input: &mut Input<'_>, write: bool) {
        let kind = input.u8();
        let region = if kind & 0x80 != 0 { 7 } else { u32::from(kind & 15) };
        let (offset, count) = (u64::from(input.u16() & 0x1fff), u32::from(input.u8()));
        let mut payload = longs(&[], &[offset]);
        payload.extend(words(&[region, if kind & 0x40 != 0 { count << 8 } else { count & 15 }]));
        if write {
            payload.extend_from_slice(input.bytes((count & 15) as usize));
            self.send(command::REGION_WRITE, if kind & 0x20 != 0 { Header::NO_REPLY } else { 0 }, &payload, Vec::new());
        } else {
            self.send(command::REGION_READ, 0, &payload, Vec::new());
        }
    }

    /// Starts the vmxnet3 driver (and stores into the vlance card's ports).
    fn activate(&mut self) {
        for (offset, value) in [(0x10u64, AREA as u32), (0x18, (AREA >> 32) as u32), (0x20, 0xcafe_0000)] {
            let mut payload = longs(&[], &[offset]);
            payload.extend(words(&[1, 4, value]));
            self.send(command::REGION_WRITE, 0, &payload, Vec::new());
        }
    }

    fn raw(&mut self, input: &mut Input<'_>) {
        let (command, flags, len) = (u16::from(input.u8() % 20), u32::from(input.u8()) & !Header::TYPE, input.u8());
        let (count, kinds) = (input.u8() & 3, input.u8());
        let payload = input.bytes(usize::from(len));
        let fds = self.descriptors(count, kinds);
        self.send(command, flags, payload, fds);
    }

    fn descriptors(&self, count: u8, kinds: u8) -> Vec<OwnedFd> {
        (0..count).filter_map(|i| descriptor(kinds.rotate_right(u32::from(i) * 3), &self.memory)).collect()
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0 | 1 => self.map(input),
            2 => self.unmap(input),
            3 => self.irqs(input),
            4 => self.access(input, false),
            5 | 6 => self.access(input, true),
            7 => {
                let payload = words(&[input.u8().into(), 0, (input.u8() % 12).into(), 0]);
                self.send(command::GET_REGION_INFO, 0, &payload, Vec::new());
            }
            8 | 9 => self.raw(input),
            10 => self.activate(),
            11 => self.session.settle(),
            12 => {
                for queue in &mut self.queues {
                    self.wire.poll(queue.as_mut());
                }
            }
            13 => {
                let which = input.u8();
                SOURCE.with(|source| source.deliver(&*self.egress, which, None));
            }
            14 => self.memory.put32(BASE + u64::from(input.u16()) * 4, input.u32()),
            _ => self.rare(input),
        }
    }

    fn rare(&mut self, input: &mut Input<'_>) {
        match input.u8() % 6 {
            0 => {
                self.session.disconnect();
                assert!(!self.state.connected());
            }
            1 => self.session.resampled(),
            2 => self.memory.shrink(),
            3 => {
                self.state.set_link_up(input.u8() & 1 != 0);
                self.session.model_mut().link_changed();
            }
            4 => self.send(command::VERSION, 0, &[0, 0, 0, 0], Vec::new()),
            _ => {
                let text = input.u8();
                let payload = [&[0, 0, 1, 0], input.bytes(usize::from(text)), &[0]].concat();
                self.session.disconnect();
                self.send(command::VERSION, 0, &payload, Vec::new());
            }
        }
    }
}

/// A descriptor of the kind in the low three bits.
pub fn descriptor(kind: u8, memory: &Memory) -> Option<OwnedFd> {
    match kind & 7 {
        0 | 1 => memory.fd().try_clone_to_owned().ok(),
        2 | 3 => eventfd(0, EventfdFlags::CLOEXEC).ok(),
        4 => {
            let fd = memfd_create("small", MemfdFlags::CLOEXEC).ok()?;
            ftruncate(&fd, 5000).ok()?;
            Some(fd)
        }
        5 => rustix::pipe::pipe().ok().map(|(_read, write)| write),
        6 => rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty()).ok(),
        _ => epoll::create(epoll::CreateFlags::CLOEXEC).ok(),
    }
}

/// Checks the form of an answer to `request`.
///
/// # Panics
/// When a VMM could not understand it.
pub fn check(request: &Header, payload: &[u8], answer: &Outgoing) {
    let header = Header::decode(&answer.bytes).expect("a whole header");
    assert_eq!((header.id, header.command), (request.id, request.command), "the answer to this message");
    assert_eq!(header.size as usize, answer.bytes.len(), "the size it says");
    assert_eq!(header.flags & Header::TYPE, Header::REPLY);
    let failed = header.flags & Header::ERROR != 0;
    assert_eq!(failed, header.error != 0, "an error has an errno");
    assert!(header.error < 4096, "a true errno");
    let reply = &answer.bytes[HEADER..];
    assert!(reply.len() <= MAX_DATA + 4096);
    if failed {
        assert!(reply.is_empty() && answer.fd.is_none());
    } else if matches!(request.command, command::REGION_READ | command::REGION_WRITE) {
        let count = if request.command == command::REGION_READ { &payload[12..16] } else { &[0; 4] };
        let count = u32::from_ne_bytes([count[0], count[1], count[2], count[3]]);
        assert_eq!(reply[..16], payload[..16], "the access is echoed");
        let offset = u64::from_ne_bytes(std::array::from_fn(|i| reply[i]));
        let asked = u64::from(u32::from_ne_bytes(std::array::from_fn(|i| reply[12 + i])));
        assert!(offset.checked_add(asked).is_some_and(|end| end <= LARGEST), "no region is that large");
        assert_eq!(reply.len(), 16 + count as usize, "the data that was asked for");
    }
}

/// Runs one input.
///
/// # Panics
/// When an answer is malformed, an account is wrong, or memory was written that is not the guest's.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut vmm = Vmm::new(input.u8());
    for _ in 0..MESSAGES {
        if input.is_empty() {
            break;
        }
        vmm.step(&mut input);
    }
    vmm.session.settle();
    for queue in &mut vmm.queues {
        vmm.wire.poll(queue.as_mut());
    }
    vmm.session.disconnect();
    assert!(!vmm.state.connected(), "nobody is connected any more");
    vmm.memory.check();
}
