//! The commands a driver writes to CMD, and what it reads back.
//!
//! Numbers: `VMXNET3_CMD_*` in FreeBSD's `if_vmxreg.h` and Linux's `vmxnet3_defs.h`; results as Linux's and FreeBSD's
//! drivers read them. A command that is not known is answered with [`FAILURE`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sharedmem::DmaError;

use super::Vmxnet3;
use super::active::{Active, Run};
use super::moderation::{SCHEME_LEN, Scheme};
use super::registers::{mac_high, mac_low};
use super::rss::{Rss, field};
use super::shared_area::{Conf, MAX_RX_QUEUES, MAX_TX_QUEUES, QUEUE_LEN, StartError, Words, at, feature, queue};

/// Start the card with the driver-shared area at DSAL/DSAH; result 0 when it runs.
pub const ACTIVATE_DEV: u32 = 0xcafe_0000;
/// Stop it.
pub const QUIESCE_DEV: u32 = 0xcafe_0001;
/// Stop it and mask all interrupts.
pub const RESET_DEV: u32 = 0xcafe_0002;
/// Read the receive mode anew.
pub const UPDATE_RX_MODE: u32 = 0xcafe_0003;
/// Read the group addresses anew.
pub const UPDATE_MAC_FILTERS: u32 = 0xcafe_0004;
/// Read the VLAN table anew.
pub const UPDATE_VLAN_FILTERS: u32 = 0xcafe_0005;
/// Read the RSS configuration anew.
pub const UPDATE_RSSIDT: u32 = 0xcafe_0006;
/// Read the interrupt moderation levels anew: they are not used, see [`SET_COALESCE`].
pub const UPDATE_IML: u32 = 0xcafe_0007;
/// Read the wake-up patterns anew: nothing sleeps.
pub const UPDATE_PMCFG: u32 = 0xcafe_0008;
/// Read the UPT features anew.
pub const UPDATE_FEATURE: u32 = 0xcafe_0009;
/// Load a plug-in (Linux's number): refused.
pub const LOAD_PLUGIN: u32 = 0xcafe_000b;
/// Revision 3: set interrupt moderation to the scheme that the command's data name.
pub const SET_COALESCE: u32 = 0xcafe_000e;
/// Revision 3: register memory regions; refused, as no driver needs it granted.
pub const REGISTER_MEMREGS: u32 = 0xcafe_000f;
/// Revision 4: set the kinds of frame whose ports are hashed too.
pub const SET_RSS_FIELDS: u32 = 0xcafe_0010;
/// Revision 7: the buffer sizes the driver uses, as a hint.
pub const SET_RING_BUFFER_SIZE: u32 = 0xcafe_0013;
/// Write stopped and error of each queue into its descriptor.
pub const GET_QUEUE_STATUS: u32 = 0xf00d_0000;
/// Write the statistics of each queue into its descriptor.
pub const GET_STATS: u32 = 0xf00d_0001;
/// Speed in Mb/s in the upper half, bit 0 set while the link is up.
pub const GET_LINK: u32 = 0xf00d_0002;
/// First four bytes of the burned-in address.
pub const GET_PERM_MAC_LO: u32 = 0xf00d_0003;
/// Last two bytes.
pub const GET_PERM_MAC_HI: u32 = 0xf00d_0004;
/// Device identity.
pub const GET_DID_LO: u32 = 0xf00d_0005;
/// Device revision.
pub const GET_DID_HI: u32 = 0xf00d_0006;
/// Extra information: none.
pub const GET_DEV_EXTRA_INFO: u32 = 0xf00d_0007;
/// Bits 1:0 interrupt type, 3:2 mask mode; both 0 leave it to the driver and to auto-masking.
pub const GET_CONF_INTR: u32 = 0xf00d_0008;
/// Adaptive ring sizes: 1, switched off.
pub const GET_ADAPTIVE_RING_INFO: u32 = 0xf00d_0009;
/// Revision 3: bytes per entry of the transmit data ring.
pub const GET_TXDATA_DESC_SIZE: u32 = 0xf00d_000a;
/// Revision 3: write the scheme of interrupt moderation where the command's data say.
pub const GET_COALESCE: u32 = 0xf00d_000b;
/// Revision 4: the kinds of frame whose ports are hashed too.
pub const GET_RSS_FIELDS: u32 = 0xf00d_000c;
/// Revision 6: most transmit queues in the low byte, most receive queues in the next.
pub const GET_MAX_QUEUES_CONF: u32 = 0xf00d_000f;
/// Revision 7: the capabilities in force.
pub const GET_DCR0_REG: u32 = 0xf00d_0012;

/// What a refused or unknown command reads back as.
pub const FAILURE: u32 = 0xffff_ffff;
/// What ACTIVATE_DEV reads back as when the configuration cannot be used.
const NOT_ACTIVE: u32 = 1;
/// The speed of every vmxnet3 card in Mb/s; it limits nothing.
const SPEED: u32 = 10_000;
/// `VMXNET3_HDR_COPY_SIZE`.
const DATA_DESC_LEN: u32 = 128;

impl Vmxnet3 {
    /// Carries a command out and returns its result.
    pub(super) fn command(&mut self, command: u32) -> u32 {
        self.look_for_failure();
        let revision = self.registers.revision;
        match command {
            ACTIVATE_DEV => self.activate(),
            QUIESCE_DEV => {
                self.stop();
                0
            }
            RESET_DEV => {
                self.stop();
                self.mask_all();
                0
            }
            UPDATE_RX_MODE | UPDATE_MAC_FILTERS | UPDATE_VLAN_FILTERS => self.update_filter(command),
            UPDATE_FEATURE => self.update_features(),
            UPDATE_RSSIDT => self.update_rss(),
            SET_COALESCE if revision >= 3 => self.set_moderation(),
            GET_COALESCE if revision >= 3 => self.moderation(),
            SET_RSS_FIELDS if revision >= 4 => self.set_rss_fields(),
            GET_RSS_FIELDS if revision >= 4 => self.rss_fields,
            GET_MAX_QUEUES_CONF if revision >= 6 => MAX_TX_QUEUES as u32 | (MAX_RX_QUEUES as u32) << 8,
            GET_DCR0_REG if revision >= 7 => self.registers.capabilities,
            SET_RING_BUFFER_SIZE if revision >= 7 => 0,
            UPDATE_IML | UPDATE_PMCFG => 0,
            GET_QUEUE_STATUS => self.queue_status(),
            GET_STATS => self.statistics(),
            GET_LINK if self.card.state.link_up() => SPEED << 16 | 1,
            GET_LINK | GET_DEV_EXTRA_INFO | GET_CONF_INTR => 0,
            GET_PERM_MAC_LO => mac_low(self.permanent),
            GET_PERM_MAC_HI => mac_high(self.permanent),
            GET_DID_LO => u32::from(self.profile.device),
            GET_DID_HI => u32::from(self.profile.revision),
            GET_ADAPTIVE_RING_INFO => 1,
            GET_TXDATA_DESC_SIZE => DATA_DESC_LEN,
            _ => FAILURE,
        }
    }

    fn activate(&mut self) -> u32 {
        self.stop();
        match self.start() {
            Ok(()) => {
                self.complaint = None;
                0
            }
            Err(error) => {
                self.complain(&error);
                NOT_ACTIVE
            }
        }
    }

    fn start(&mut self) -> Result<(), StartError> {
        let conf = Conf::read(&self.map, self.registers.area, self.registers.revision)?;
        let mut active = Active::bind(Arc::new(Run::new(conf)), self.map.clone(), None)?;
        self.rss = self.read_rss(&active)?;
        active.rss.clone_from(&self.rss);
        active.clear_completions();
        active.area.store(at::EVENTS, 0);
        self.filter.read(&active.area, &active.map);
        self.run = Some(active.run.clone());
        self.put_in_use(active);
        tracing::debug!(vnic = %self.card.name, "the guest's driver started the card");
        Ok(())
    }

    /// One sentence in the log, and not the same one again: a guest may try as often as it likes.
    pub(super) fn complain(&mut self, error: &StartError) {
        let name = &self.card.name;
        let sentence = match error {
            StartError::Memory(part, DmaError::NotShared) => format!(
                "vNIC {name}: the VMM does not share its memory with the switch, so {part} cannot be reached and the \
                 card cannot start; start the VMM with shared memory (QEMU: memory-backend-memfd with share=on)"
            ),
            error => format!("vNIC {name}: the guest's driver cannot start the card: {error}"),
        };
        if self.complaint.as_ref() != Some(&sentence) {
            tracing::warn!("{sentence}");
            self.complaint = Some(sentence);
        }
    }

    /// The features that may change while the card runs.
    fn update_features(&mut self) -> u32 {
        if let Some(active) = self.card.active.load().as_ref() {
            active.run.features.store(active.area.load64(at::FEATURES), Ordering::Relaxed);
        }
        self.update_rss()
    }

    fn read_rss(&self, active: &Active) -> Result<Option<Arc<Rss>>, StartError> {
        if !active.run.wants(feature::RSS) {
            return Ok(None);
        }
        Ok(Some(Arc::new(Rss::read(&active.area, &active.map, active.rx.len(), self.rss_fields)?)))
    }

    /// Reads the configuration of receive side scaling anew; one that makes no sense changes nothing.
    fn update_rss(&mut self) -> u32 {
        let guard = self.card.active.load();
        let Some(active) = guard.as_ref() else { return 0 };
        match self.read_rss(active) {
            Ok(None) if self.rss.is_none() => 0,
            Ok(rss) => {
                drop(guard);
                self.rss = rss;
                self.rebind();
                0
            }
            Err(error) => {
                drop(guard);
                self.complain(&error);
                FAILURE
            }
        }
    }

    fn set_rss_fields(&mut self) -> u32 {
        if let Some(active) = self.card.active.load().as_ref() {
            self.rss_fields = active.area.load(at::COMMAND) & field::ALL;
        }
        self.update_rss()
    }

    /// The memory that the command's data name, if it has room for a scheme of moderation.
    fn scheme_memory(active: &Active) -> Option<Words> {
        let (len, iova) = (active.area.load(at::COMMAND + 4), active.area.load64(at::COMMAND + 8));
        if len < SCHEME_LEN {
            return None;
        }
        Words::new(&active.map, iova, SCHEME_LEN).ok()
    }

    fn set_moderation(&mut self) -> u32 {
        let guard = self.card.active.load();
        let Some(words) = guard.as_ref().and_then(|active| Self::scheme_memory(active)) else { return FAILURE };
        let Some(scheme) = Scheme::from_words(std::array::from_fn(|i| words.load(i as u32 * 4))) else {
            return FAILURE;
        };
        self.card.lines.moderation.set(scheme);
        0
    }

    fn moderation(&self) -> u32 {
        let guard = self.card.active.load();
        let Some(words) = guard.as_ref().and_then(|active| Self::scheme_memory(active)) else { return FAILURE };
        for (i, word) in self.card.lines.moderation.scheme().words().into_iter().enumerate() {
            words.store(i as u32 * 4, word);
        }
        0
    }

    fn update_filter(&mut self, command: u32) -> u32 {
        if let Some(active) = self.card.active.load().as_ref() {
            match command {
                UPDATE_RX_MODE => self.filter.read_mode(&active.area),
                UPDATE_MAC_FILTERS => self.filter.read_groups(&active.area, &active.map),
                _ => self.filter.read_vlans(&active.area),
            }
        }
        self.publish_filter();
        0
    }

    fn queue_status(&self) -> u32 {
        if let Some(active) = self.card.active.load().as_ref() {
            let transmit = active.run.tx.iter().map(|q| q.error.load(Ordering::Relaxed));
            let receive = active.run.rx.iter().map(|_| 0);
            for (index, error) in transmit.chain(receive).enumerate() {
                let base = index as u32 * QUEUE_LEN;
                active.queues.store(base + queue::STOPPED, u32::from(error != 0));
                active.queues.store(base + queue::ERROR, error);
            }
        }
        0
    }

    fn statistics(&self) -> u32 {
        if let Some(active) = self.card.active.load().as_ref() {
            let transmit = self.card.tx_stats.iter().take(active.tx.len());
            let receive = self.card.rx_stats.iter().take(active.rx.len());
            for (index, stats) in transmit.chain(receive).enumerate() {
                stats.write(&active.queues, index);
            }
        }
        0
    }
}
