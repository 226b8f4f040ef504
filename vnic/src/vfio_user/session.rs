//! What a message does: the protocol without the socket.
//!
//! [`Session::handle`] takes any bytes whatever and answers or ignores them; it is what a fuzzer drives.
//! After a run of messages [`Session::settle`] must be called before their answers are sent.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use dataplane::{Grace, PortState};
use rustix::io::Errno;

use super::Fault;
use super::dma::Dma;
use super::irqs::Irqs;
use super::message::{Command, Fields, Header, MessageCounters, Outgoing, Reply};
use super::regions::{self, Access, Registers};
use super::version;
use crate::device::DeviceModel;
use crate::irq::Interrupts;

/// A hostile VMM may send nonsense for ever; this many complaints per connection reach the log as warnings.
const COMPLAINTS: u32 = 16;

/// A card and what the transport shares with it: the same values its model was set up with.
pub struct Card {
    /// Port name, for log lines.
    pub name: String,
    /// The device model.
    pub model: Box<dyn DeviceModel>,
    /// The port's shared state: says whether a VMM is there.
    pub state: Arc<PortState>,
    /// Interrupt lines towards the VMM.
    pub interrupts: Arc<Interrupts>,
    /// How to wait until all workers have let go.
    pub grace: Grace,
}

/// One card's side of the protocol, over as many connections as come.
pub struct Session {
    card: Card,
    registers: Registers,
    dma: Dma,
    irqs: Irqs,
    negotiated: bool,
    told_not_shared: bool,
    complaints: u32,
    counters: MessageCounters,
}

impl Session {
    /// A card nobody has connected to.
    pub fn new(card: Card) -> Session {
        let registers = Registers::new(card.model.as_ref());
        let irqs = Irqs::new(card.model.pci());
        Session {
            card,
            registers,
            dma: Dma::default(),
            irqs,
            negotiated: false,
            told_not_shared: false,
            complaints: 0,
            counters: MessageCounters::default(),
        }
    }

    /// Serves one whole message: its header, what follows the header, the descriptors that came with it.
    /// Returns what to send, which is nothing for a message that wants no reply.
    pub fn handle(&mut self, header: &Header, payload: &[u8], fds: Vec<OwnedFd>) -> Option<Outgoing> {
        self.counters.command(header.command);
        let command = Command::from_number(header.command);
        if !matches!(command, Some(Command::DmaMap | Command::DmaUnmap)) {
            self.publish();
            self.tell_not_shared();
        }
        let outcome = self.dispatch(command, payload, fds).map_err(|fault| {
            if let Some(reason) = fault.reason {
                self.complain(&reason);
            }
            fault.errno
        });
        (header.flags & Header::NO_REPLY == 0).then(|| Outgoing::answer(header, outcome))
    }

    fn dispatch(&mut self, command: Option<Command>, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Reply, Fault> {
        let command = command.ok_or(Errno::OPNOTSUPP)?;
        if (command == Command::Version) == self.negotiated {
            let why = if self.negotiated { "a second VERSION message" } else { "a command before VERSION" };
            return Err(Fault::new(Errno::PROTO, why));
        }
        let model = self.card.model.as_mut();
        match command {
            Command::Version => self.negotiate(payload),
            Command::DmaMap => self.dma.map(payload, fds),
            Command::DmaUnmap => self.dma.unmap(payload),
            Command::GetInfo => regions::device_info(payload),
            Command::GetRegionInfo => regions::region_info(model, payload),
            // Doorbells are plain stores into a mapped BAR; there are no descriptors to hand out.
            Command::GetRegionIoFds => Err(Errno::OPNOTSUPP.into()),
            Command::GetIrqInfo => self.irqs.info(payload),
            Command::SetIrqs => self.irqs.set(&self.card.interrupts, payload, fds),
            Command::RegionRead => {
                let access = Access::decode(&mut Fields(payload))?;
                self.counters.access(access.region, false);
                self.registers.read(model, &self.card.interrupts, access)
            }
            Command::RegionWrite => {
                let mut fields = Fields(payload);
                let access = Access::decode(&mut fields)?;
                self.counters.access(access.region, true);
                self.registers.write(model, access, fields.rest())
            }
            Command::DeviceReset => {
                model.reset();
                self.registers.reset();
                Ok(Reply::default())
            }
        }
    }

    fn negotiate(&mut self, payload: &[u8]) -> Result<Reply, Fault> {
        let reply = version::negotiate(payload).map_err(|errno| Fault::new(errno, "a malformed VERSION message"))?;
        self.negotiated = true;
        self.card.state.set_connected(true);
        Ok(reply)
    }

    /// Hands a changed map to the card.
    fn publish(&mut self) {
        if let Some(map) = self.dma.publish() {
            self.card.model.set_map(map);
        }
    }

    /// Ends a run of messages: the card knows the newest map, and workers have let go of every mapping that
    /// was taken away. Only now may the run's answers be sent.
    pub fn settle(&mut self) {
        self.publish();
        if self.dma.unsettled() {
            self.card.grace.wait();
            self.dma.settled();
        }
    }

    /// The connection ended: the card as after power-on, nothing of the VMM's left in use.
    pub fn disconnect(&mut self) {
        self.card.state.set_connected(false);
        self.card.model.reset();
        self.card.interrupts.clear();
        self.irqs.clear();
        self.dma.clear();
        self.settle();
        self.registers.reset();
        self.negotiated = false;
        self.told_not_shared = false;
        self.complaints = 0;
    }

    /// The VMM's kernel signalled the resample eventfd: the guest has ended its interrupt.
    pub fn resampled(&mut self) {
        self.card.interrupts.unmask_intx();
    }

    fn tell_not_shared(&mut self) {
        if !self.told_not_shared && self.dma.memory_not_shared() {
            self.told_not_shared = true;
            tracing::error!(
                "vNIC {}: the VMM does not share its memory with the switch, so no frame can pass; start QEMU with \
                 -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem (SIZE as in -m)",
                self.card.name
            );
        }
    }

    /// Writes what is wrong with a message to the log, a bounded number of times per connection.
    pub fn complain(&mut self, what: &str) {
        self.complaints = self.complaints.saturating_add(1);
        match self.complaints {
            n if n < COMPLAINTS => tracing::warn!("vNIC {}: the VMM sent {what}", self.card.name),
            COMPLAINTS => {
                tracing::warn!("vNIC {}: the VMM sent {what}; saying no more of its mistakes", self.card.name)
            }
            _ => {}
        }
    }

    /// Messages served so far, over all connections.
    pub fn messages(&self) -> &MessageCounters {
        &self.counters
    }

    /// The eventfd to watch for INTx unmasks, and a number that moves whenever it is another one.
    pub(super) fn resample(&self) -> (Option<&OwnedFd>, u64) {
        self.irqs.resample()
    }

    /// Port name.
    pub fn name(&self) -> &str {
        &self.card.name
    }

    /// The card's interrupt lines.
    pub fn interrupts(&self) -> &Interrupts {
        &self.card.interrupts
    }

    /// The device model.
    pub fn model(&self) -> &dyn DeviceModel {
        self.card.model.as_ref()
    }

    /// The device model, to be changed (a link that went up or down).
    pub fn model_mut(&mut self) -> &mut dyn DeviceModel {
        self.card.model.as_mut()
    }
}
