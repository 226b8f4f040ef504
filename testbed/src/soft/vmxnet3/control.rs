//! Commands: starting, stopping, filters, interrupts, statistics.

use std::time::Duration;

use anyhow::{Result, ensure};
use wire::Mac;

use super::layout::{MAGIC, MAX_GROUPS, RSS_LEN, RxMode, bar0, bar1, cmd, queue, shared};
use super::rx::RxQueue;
use super::tx::TxQueue;
use super::{SoftVmxnet3, Vmxnet3Stats};
use crate::soft::InterruptKind;

const FEATURE_RX_CSUM: u64 = 1;
const FEATURE_RSS: u64 = 2;
const FEATURE_RX_VLAN: u64 = 4;
const FEATURE_LRO: u64 = 8;
/// Most buffers of a large segment, as Linux says it: 1 and `MAX_SKB_FRAGS`.
const MAX_PIECES: u16 = 18;
/// Addresses, and TCP's ports, over IPv4 and IPv6.
const RSS_TYPES: u16 = 15;
/// The key of Microsoft's examples; Linux makes one up.
const RSS_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];
/// Guest kind: 64 bits, Linux.
const GUEST_LINUX64: u32 = 2 | 1 << 2;
/// Mask mode "automatic" of `GET_CONF_INTR`.
const MASK_AUTO: u32 = 0;

impl SoftVmxnet3 {
    /// Issues a command and reads its result.
    ///
    /// # Errors
    /// When the switch refuses the access.
    pub fn command(&mut self, command: u32) -> Result<u32> {
        self.card.write32(1, bar1::CMD, command)?;
        self.card.read32(1, bar1::CMD)
    }

    /// Issues a command whose result nobody reads.
    fn order(&mut self, command: u32) -> Result<()> {
        self.card.write32(1, bar1::CMD, command)
    }

    pub(super) fn make_queues(&mut self) -> Result<()> {
        let options = self.options.clone();
        let queues = u32::from(options.queues);
        for q in 0..queues {
            let (tx_at, rx_at) = (self.area.tx(q.into()), self.area.rx(q.into()));
            let ram = self.card.ram_mut();
            self.tx.push(TxQueue::new(ram, q as usize, tx_at, options.tx_ring)?);
            let sizes = [options.rx_ring, options.rx_ring2];
            self.rx.push(RxQueue::new(ram, (q, queues), rx_at, sizes, options.mtu, options.data_ring)?);
        }
        Ok(())
    }

    /// Starts the card on empty rings: what Linux does when the interface comes up.
    ///
    /// # Errors
    /// When the card does not start.
    pub fn activate(&mut self) -> Result<()> {
        let conf = self.command(cmd::GET_CONF_INTR)?;
        self.auto_mask = conf >> 2 & 3 == MASK_AUTO;
        let queues = self.options.queues;
        let vectors = if self.options.interrupts == InterruptKind::Msix { queues + 1 } else { 1 };
        let vector = |q: usize| if vectors > 1 { q as u8 } else { 0 };
        for (q, queue) in self.tx.iter_mut().enumerate() {
            queue.init(self.card.ram(), vector(q))?;
        }
        for (q, queue) in self.rx.iter_mut().enumerate() {
            queue.init(self.card.ram(), vector(q))?;
        }
        self.card.set_interrupts(self.options.interrupts, vectors.into())?;
        self.fill_shared_area(vectors)?;
        self.set_mac(self.mac)?;
        self.card.write32(1, bar1::DSAL, self.area.shared as u32)?;
        self.card.write32(1, bar1::DSAH, (self.area.shared >> 32) as u32)?;
        let result = self.command(cmd::ACTIVATE)?;
        ensure!(result == 0, "the card does not start: {result:#x}");
        for queue in &self.rx {
            queue.announce(&self.doorbells);
        }
        self.set_rx_mode(RxMode::UNICAST | RxMode::BROADCAST)?;
        self.masked = true;
        self.enable_interrupts()
    }

    fn fill_shared_area(&mut self, vectors: u8) -> Result<()> {
        let (ram, area, options) = (self.card.ram(), self.area, &self.options);
        ram.zero(area.shared, shared::LEN as usize)?;
        let put = |at: u64, bytes: &[u8]| ram.write(area.shared + at, bytes);
        put(shared::MAGIC, &MAGIC.to_le_bytes())?;
        for (i, word) in [0x0107_0000u32, GUEST_LINUX64, 1, 1].into_iter().enumerate() {
            put(shared::DRIVER + 4 * i as u64, &word.to_le_bytes())?;
        }
        let features = self.features(options.rx_csum, options.rx_vlan);
        if options.lro {
            put(shared::COUNTS, &MAX_PIECES.to_le_bytes())?;
        }
        if let Some(table) = &options.rss {
            self.write_rss(table)?;
        }
        put(shared::FEATURES, &features.to_le_bytes())?;
        put(shared::QUEUES, &area.queues.to_le_bytes())?;
        put(shared::QUEUES_LEN, &(2 * u32::from(options.queues) * queue::LEN as u32).to_le_bytes())?;
        put(shared::MTU, &u32::from(options.mtu).to_le_bytes())?;
        put(shared::COUNTS + 2, &[options.queues, options.queues])?;
        put(shared::INTERRUPTS, &[u8::from(self.auto_mask), vectors, vectors - 1])?;
        put(shared::INTERRUPTS + 3, &vec![8; vectors.into()])?;
        put(shared::INTERRUPT_CONTROL, &1u32.to_le_bytes())?;
        put(shared::VLANS, &[1]) // VLAN 0: untagged frames
    }

    fn features(&self, rx_csum: bool, rx_vlan: bool) -> u64 {
        let wanted = [
            (rx_csum, FEATURE_RX_CSUM),
            (rx_vlan, FEATURE_RX_VLAN),
            (self.options.lro, FEATURE_LRO),
            (self.options.rss.is_some(), FEATURE_RSS),
        ];
        wanted.iter().filter(|(on, _)| *on).fold(0, |all, (_, feature)| all | feature)
    }

    fn write_rss(&self, table: &[u8]) -> Result<()> {
        ensure!((1..=128).contains(&table.len()), "a table of {} entries", table.len());
        let words = [RSS_TYPES, 1, RSS_KEY.len() as u16, table.len() as u16];
        let mut conf: Vec<u8> = words.into_iter().flat_map(u16::to_le_bytes).chain(RSS_KEY).collect();
        conf.extend(table);
        conf.resize(RSS_LEN, 0);
        let (ram, at) = (self.card.ram(), self.area.shared + shared::RSS);
        ram.write(self.area.rss, &conf)?;
        ram.write(at, &1u32.to_le_bytes())?;
        ram.write(at + 4, &(RSS_LEN as u32).to_le_bytes())?;
        ram.write(at + 8, &self.area.rss.to_le_bytes())
    }

    /// Changes the table by which frames are spread, as `ethtool -X` does.
    ///
    /// # Errors
    /// When the switch refuses, or the table makes no sense.
    pub fn set_table(&mut self, table: &[u8]) -> Result<()> {
        self.write_rss(table)?;
        let result = self.command(cmd::UPDATE_RSSIDT)?;
        ensure!(result == 0, "the card does not take the table: {result:#x}");
        Ok(())
    }

    /// Sets the scheme of interrupt moderation (`Vmxnet3_CoalesceScheme`), as `ethtool -C` does.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn moderate(&mut self, scheme: [u32; 4]) -> Result<()> {
        let (ram, at) = (self.card.ram(), self.area.shared + shared::COMMAND);
        ram.write(self.area.scheme, &scheme.map(u32::to_le_bytes).concat())?;
        ram.write(at, &1u32.to_le_bytes())?;
        ram.write(at + 4, &16u32.to_le_bytes())?;
        ram.write(at + 8, &self.area.scheme.to_le_bytes())?;
        let result = self.command(cmd::SET_COALESCE)?;
        ensure!(result == 0, "the card does not take the scheme: {result:#x}");
        Ok(())
    }

    /// The most transmit and receive queues the card has.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn max_queues(&mut self) -> Result<(u8, u8)> {
        let [tx, rx, ..] = self.command(cmd::GET_MAX_QUEUES_CONF)?.to_le_bytes();
        Ok((tx, rx))
    }

    /// Stops the card (`QUIESCE`); [`SoftVmxnet3::activate`] starts it again on empty rings.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn quiesce(&mut self) -> Result<()> {
        self.order(cmd::QUIESCE)?;
        self.mask_interrupts()?;
        self.card.clear_interrupts()
    }

    /// Resets the card by the driver's command.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn reset(&mut self) -> Result<()> {
        self.order(cmd::RESET)
    }

    /// Programs the card's address.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn set_mac(&mut self, mac: Mac) -> Result<()> {
        let [a, b, c, d, e, f] = mac.0;
        self.card.write32(1, bar1::MACL, u32::from_le_bytes([a, b, c, d]))?;
        self.card.write32(1, bar1::MACH, u32::from_le_bytes([e, f, 0, 0]))?;
        self.mac = mac;
        Ok(())
    }

    /// Sets the receive mode.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn set_rx_mode(&mut self, mode: RxMode) -> Result<()> {
        self.card.ram().write(self.area.shared + shared::RX_MODE, &mode.0.to_le_bytes())?;
        self.order(cmd::UPDATE_RX_MODE)?;
        self.order(cmd::UPDATE_VLAN_FILTERS)?;
        self.order(cmd::UPDATE_MAC_FILTERS)
    }

    /// Sets the list of groups and, when there are any, the mode bit for them.
    ///
    /// # Errors
    /// When the switch refuses, or there are too many.
    pub fn set_multicast(&mut self, groups: &[Mac]) -> Result<()> {
        ensure!(groups.len() <= MAX_GROUPS, "{} groups", groups.len());
        let bytes: Vec<u8> = groups.iter().flat_map(|m| m.0).collect();
        let (ram, shared_at) = (self.card.ram(), self.area.shared);
        ram.write(self.area.groups, &bytes)?;
        ram.write(shared_at + shared::GROUPS_LEN, &(bytes.len() as u16).to_le_bytes())?;
        ram.write(shared_at + shared::GROUPS, &self.area.groups.to_le_bytes())?;
        let mut mode = [0; 4];
        ram.read(shared_at + shared::RX_MODE, &mut mode)?;
        let mode = u32::from_le_bytes(mode) & !RxMode::MULTICAST.0;
        self.set_rx_mode(RxMode(mode | if groups.is_empty() { 0 } else { RxMode::MULTICAST.0 }))
    }

    /// Sets the VLANs whose tagged frames are received. (The card filters by it unless it is promiscuous.)
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn set_vlan_filter(&mut self, vlans: &[u16]) -> Result<()> {
        let mut table = [0u8; 512];
        table[0] = 1;
        for vid in vlans {
            table[usize::from(vid & 0xfff) / 8] |= 1 << (vid % 8);
        }
        self.card.ram().write(self.area.shared + shared::VLANS, &table)?;
        self.order(cmd::UPDATE_VLAN_FILTERS)
    }

    /// Changes the features in force while the card runs, as `ethtool -K` does.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn set_features(&mut self, rx_csum: bool, rx_vlan: bool) -> Result<()> {
        let features = self.features(rx_csum, rx_vlan);
        self.card.ram().write(self.area.shared + shared::FEATURES, &features.to_le_bytes())?;
        self.order(cmd::UPDATE_FEATURE)
    }

    /// The link: up or not, and its speed in Mb/s.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn link(&mut self) -> Result<(bool, u32)> {
        let link = self.command(cmd::GET_LINK)?;
        Ok((link & 1 == 1, link >> 16))
    }

    /// The events the card reports; acknowledges them.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn take_events(&mut self) -> Result<u32> {
        let mut events = [0; 4];
        self.card.ram().read(self.area.shared + shared::EVENTS, &mut events)?;
        let events = u32::from_le_bytes(events);
        if events != 0 {
            self.card.write32(1, bar1::ECR, events)?;
        }
        Ok(events)
    }

    /// Has the card write its statistics, and reads those of queue pair `pair`.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn stats(&mut self, pair: u8) -> Result<Vmxnet3Stats> {
        self.order(cmd::GET_STATS)?;
        let mut stats = Vmxnet3Stats::default();
        let (tx, rx) = (self.area.tx(pair.into()), self.area.rx(pair.into()));
        for (at, counters) in [(tx, &mut stats.tx), (rx, &mut stats.rx)] {
            let mut bytes = [0; 80];
            self.card.ram().read(at + queue::STATS, &mut bytes)?;
            for (counter, chunk) in counters.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *counter = u64::from_le_bytes(*chunk);
            }
        }
        Ok(stats)
    }

    /// Has the card write its queues' status: for each transmit and then each receive queue whether it
    /// stopped, and why.
    ///
    /// # Errors
    /// When the switch refuses.
    pub fn queue_status(&mut self) -> Result<Vec<(bool, u32)>> {
        self.order(cmd::GET_QUEUE_STATUS)?;
        let pairs = u64::from(self.options.queues);
        (0..2 * pairs)
            .map(|q| {
                let mut bytes = [0; 8];
                self.card.ram().read(self.area.queues + q * queue::LEN + queue::STOPPED, &mut bytes)?;
                let [stopped, _, _, _, error @ ..] = bytes;
                Ok((stopped != 0, u32::from_le_bytes(error)))
            })
            .collect()
    }

    fn set_masks(&self, masked: bool) {
        let vectors = if self.card.kind() == InterruptKind::Msix { usize::from(self.options.queues) + 1 } else { 1 };
        for vector in 0..vectors {
            if let Some(register) = self.doorbells.slice(bar0::IMR + vector * 8, 4) {
                register.store_u32(0, masked.into());
            }
        }
    }

    /// Lets the card interrupt, by plain stores.
    pub(super) fn enable_interrupts(&mut self) -> Result<()> {
        if self.masked && self.card.kind() != InterruptKind::None {
            self.card.ram().write(self.area.shared + shared::INTERRUPT_CONTROL, &0u32.to_le_bytes())?;
            self.set_masks(false);
            self.masked = false;
            self.card.touched()?;
        }
        Ok(())
    }

    /// Lets the card interrupt again, looks at no ring, and waits for it; true when it does in time.
    ///
    /// # Errors
    /// When the guest's memory is gone.
    pub fn unmask_and_wait(&mut self, timeout: Duration) -> Result<bool> {
        self.enable_interrupts()?;
        self.card.wait_interrupt(timeout)
    }

    /// Holds interrupts back.
    ///
    /// # Errors
    /// When the guest's memory is gone.
    pub fn mask_interrupts(&mut self) -> Result<()> {
        self.card.ram().write(self.area.shared + shared::INTERRUPT_CONTROL, &1u32.to_le_bytes())?;
        self.set_masks(true);
        self.masked = true;
        Ok(())
    }

    /// The interrupt handler: INTx asks whether the card was it; where the card does not mask by itself, the
    /// handler does. The rings are looked at by the caller, who then unmasks.
    pub(super) fn on_interrupt(&mut self) -> Result<()> {
        if self.card.kind() == InterruptKind::Intx {
            let cause = self.card.read32(1, bar1::ICR)?;
            self.card.touched()?;
            if cause == 0 {
                return Ok(()); // another card on the line
            }
        }
        if !self.auto_mask {
            self.set_masks(true);
        }
        self.masked = true;
        Ok(())
    }
}
