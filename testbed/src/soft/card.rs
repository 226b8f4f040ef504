//! What both cards have in common: the socket, the memory, the interrupt lines.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::client::{self, Client};
use super::{PATIENCE, Ram};

/// Which interrupts the guest sets up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InterruptKind {
    /// MSI-X, one vector per queue pair and one for events.
    #[default]
    Msix,
    /// One MSI vector.
    Msi,
    /// The level-triggered pin.
    Intx,
    /// None: the guest polls.
    None,
}

impl InterruptKind {
    fn index(self) -> Option<u32> {
        match self {
            InterruptKind::Msix => Some(client::IRQ_MSIX),
            InterruptKind::Msi => Some(client::IRQ_MSI),
            InterruptKind::Intx => Some(client::IRQ_INTX),
            InterruptKind::None => None,
        }
    }
}

/// A card's connection to the switch.
pub struct Card {
    client: Client,
    ram: Ram,
    lines: Vec<OwnedFd>,
    kind: InterruptKind,
    interrupts: u64,
    unmask_due: bool,
}

impl Card {
    /// Connects to the card on `socket` and gives it `ram`: with its descriptor, or, when not `shared`, as
    /// a VMM does that keeps its memory to itself.
    ///
    /// # Errors
    /// What the switch refuses.
    pub fn connect(socket: &Path, ram: Ram, shared: bool) -> Result<Card> {
        let client =
            Client::connect(socket, PATIENCE).with_context(|| format!("connecting to {}", socket.display()))?;
        let kind = InterruptKind::None;
        let mut card = Card { client, ram, lines: Vec::new(), kind, interrupts: 0, unmask_due: false };
        if shared {
            card.map_ram()?
        } else {
            card.map_ram_unshared()?
        }
        Ok(card)
    }

    /// Maps the guest's memory, with its descriptor.
    ///
    /// # Errors
    /// What the switch refuses.
    pub fn map_ram(&mut self) -> Result<()> {
        let Card { client, ram, .. } = self;
        Ok(client.dma_map(Some(ram.fd()), 0, ram.base(), ram.len(), true)?)
    }

    /// Maps the guest's memory without a descriptor.
    ///
    /// # Errors
    /// What the switch refuses.
    pub fn map_ram_unshared(&mut self) -> Result<()> {
        Ok(self.client.dma_map(None, 0, self.ram.base(), self.ram.len(), true)?)
    }

    /// Takes the guest's memory away from the switch (the guest keeps it).
    ///
    /// # Errors
    /// What the switch refuses.
    pub fn unmap_ram(&mut self) -> Result<()> {
        Ok(self.client.dma_unmap(self.ram.base(), self.ram.len())?)
    }

    /// Breaks the connection, as a VMM that is killed.
    ///
    /// # Errors
    /// What `shutdown` says.
    pub fn disconnect(&mut self) -> Result<()> {
        Ok(self.client.stream().shutdown(std::net::Shutdown::Both)?)
    }

    /// The protocol client.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    pub(crate) fn ram_mut(&mut self) -> &mut Ram {
        &mut self.ram
    }

    /// Messages sent on the socket so far.
    pub fn messages(&self) -> u64 {
        self.client.messages()
    }

    /// Interrupts taken so far.
    pub fn interrupts(&self) -> u64 {
        self.interrupts
    }

    /// Checks the card's identity and turns its BARs and bus mastering on, as `pci_enable_device` and
    /// `pci_set_master` do.
    pub(crate) fn enable_pci(&mut self, vendor: u16, device: u16) -> Result<()> {
        let mut id = [0; 4];
        self.client.region_read(client::CONFIG_REGION, 0, &mut id)?;
        let found = (u16::from_le_bytes([id[0], id[1]]), u16::from_le_bytes([id[2], id[3]]));
        ensure!(found == (vendor, device), "the card is {:04x}:{:04x}", found.0, found.1);
        let mut command = [0; 2];
        self.client.region_read(client::CONFIG_REGION, 4, &mut command)?;
        let on = u16::from_le_bytes(command) | 0x7;
        self.client.region_write(client::CONFIG_REGION, 4, &on.to_le_bytes())?;
        self.client.region_read(client::CONFIG_REGION, 4, &mut command)?;
        ensure!(u16::from_le_bytes(command) & 0x7 == 0x7, "the command register took {on:#x} as {command:x?}");
        Ok(())
    }

    /// Reads a 32-bit register.
    pub(crate) fn read32(&mut self, bar: u32, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.client.region_read(bar, at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes a 32-bit register.
    pub(crate) fn write32(&mut self, bar: u32, at: u64, value: u32) -> Result<()> {
        Ok(self.client.region_write(bar, at, &value.to_le_bytes())?)
    }

    /// Sets up `count` vectors of `kind` (one for anything but MSI-X).
    pub(crate) fn set_interrupts(&mut self, kind: InterruptKind, count: u32) -> Result<()> {
        self.clear_interrupts()?;
        let Some(index) = kind.index() else { return Ok(()) };
        let count = if kind == InterruptKind::Msix { count } else { 1 };
        let offered = self.client.irq_count(index)?;
        ensure!(offered >= count, "the card offers {offered} vectors of {kind:?}, the driver needs {count}");
        for _ in 0..count {
            self.lines.push(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        }
        let fds: Vec<BorrowedFd<'_>> = self.lines.iter().map(AsFd::as_fd).collect();
        self.client.set_irqs(index, &fds)?;
        self.kind = kind;
        Ok(())
    }

    /// Takes all vectors down.
    pub(crate) fn clear_interrupts(&mut self) -> Result<()> {
        if let Some(index) = self.kind.index() {
            self.client.clear_irqs(index)?;
        }
        self.lines.clear();
        self.kind = InterruptKind::None;
        self.unmask_due = false;
        Ok(())
    }

    /// Waits for an interrupt until `deadline`. Without interrupts it naps, for the caller to poll again.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if self.lines.is_empty() {
            std::thread::sleep(left.min(Duration::from_micros(50)));
            return Ok(!left.is_zero());
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds: Vec<PollFd<'_>> = self.lines.iter().map(|l| PollFd::new(l, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut fired = false;
        for line in &self.lines {
            let mut count = [0; 8];
            if rustix::io::read(line, &mut count) == Ok(8) {
                fired = true;
                self.interrupts += 1;
            }
        }
        self.unmask_due |= fired && self.kind == InterruptKind::Intx;
        Ok(fired)
    }

    /// Waits for an interrupt and does nothing about it: no cause is read, no line unmasked.
    ///
    /// # Errors
    /// What `poll` says.
    pub fn wait_interrupt(&mut self, timeout: Duration) -> Result<bool> {
        self.wait(Instant::now() + timeout)
    }

    /// What a VMM does when the guest touches the card after an INTx interrupt: unmask the line.
    pub(crate) fn touched(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unmask_due) {
            self.client.mask_intx(false)?;
        }
        Ok(())
    }

    /// The kind of interrupts set up.
    pub fn kind(&self) -> InterruptKind {
        self.kind
    }
}
