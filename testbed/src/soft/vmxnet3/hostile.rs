//! What no driver does.

use anyhow::Result;

use super::layout::{bar0, shared};
use super::{SoftVmxnet3, cmd};
use crate::soft::Noise;

impl SoftVmxnet3 {
    /// Fills `count` transmit descriptors of queue 0 with noise, valid by their generation bit, and rings the
    /// doorbell. The soft driver's own view of the ring is lost with it: reset or reconnect afterwards.
    ///
    /// # Errors
    /// When there is no queue.
    pub fn garbage_tx(&mut self, noise: &mut Noise, count: u32) -> Result<()> {
        let Some(queue) = self.tx.first_mut() else { anyhow::bail!("no transmit queue") };
        let (ring, fill) = queue.raw();
        for _ in 0..count {
            for word in [0, 1, 3] {
                ring.store(fill.at, word, noise.next_u32());
            }
            ring.store(fill.at, 2, noise.next_u32() & !(1 << 14) | fill.generation << 14);
            fill.advance(ring.count());
        }
        if let Some(register) = self.doorbells.slice(bar0::TXPROD, 4) {
            register.store_u32(0, noise.next_u32());
        }
        Ok(())
    }

    /// Overwrites all receive descriptors of queue 0 with noise.
    ///
    /// # Errors
    /// When there is no queue.
    pub fn garbage_rx(&mut self, noise: &mut Noise) -> Result<()> {
        let Some(queue) = self.rx.first() else { anyhow::bail!("no receive queue") };
        for ring in queue.raw() {
            for index in 0..ring.count() {
                for word in 0..4 {
                    ring.store(index, word, noise.next_u32());
                }
            }
        }
        Ok(())
    }

    /// Overwrites the driver-shared area (but for its magic number) and the queue descriptors with noise, and
    /// has the card read them: activation and all filter commands. What the card answers is returned.
    ///
    /// # Errors
    /// When the switch refuses a register access.
    pub fn garbage_shared(&mut self, noise: &mut Noise) -> Result<u32> {
        let words =
            |noise: &mut Noise, n: u64| (0..n).flat_map(|_| noise.next_u32().to_le_bytes()).collect::<Vec<u8>>();
        let area = words(noise, shared::LEN / 4 - 1);
        self.card.ram().write(self.area.shared + 4, &area)?;
        let queues = words(noise, u64::from(self.options.queues) * 2 * 64);
        self.card.ram().write(self.area.queues, &queues)?;
        for command in [cmd::UPDATE_RX_MODE, cmd::UPDATE_MAC_FILTERS, cmd::UPDATE_VLAN_FILTERS, cmd::UPDATE_FEATURE] {
            self.command(command)?;
        }
        self.command(cmd::ACTIVATE)
    }
}
