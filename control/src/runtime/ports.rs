//! The ports as the control thread holds them: the control half of each card and uplink beside what
//! workers share of it.

use std::sync::Arc;

use dataplane::{Counters, Egress, Ingress, IngressSlot, PortId, PortState, Workers};
use portgroups::Policy;
use uplink::Uplink;
use vnic::device::{DeviceModel, Setup};
use vnic::irq::Interrupts;
use vnic::vfio_user::{Card, Server};
use wire::Mac;

use super::RunError;
use crate::config::{self, Adapter, Config};

/// Queues with the worker that polls each.
pub(super) type Queues = Vec<(Arc<IngressSlot>, usize)>;

/// One uplink.
pub(super) struct UplinkPort {
    pub(super) name: String,
    pub(super) control: Uplink,
    pub(super) state: Arc<PortState>,
    pub(super) counters: Arc<Counters>,
    pub(super) egress: Arc<dyn Egress>,
    pub(super) queues: Queues,
}

/// One vNIC.
pub(super) struct VnicPort {
    pub(super) id: PortId,
    pub(super) name: String,
    /// Its number in the configuration's list of vNICs.
    pub(super) config: usize,
    /// Its port group's number.
    pub(super) group: usize,
    pub(super) server: Server,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) state: Arc<PortState>,
    pub(super) counters: Arc<Counters>,
    pub(super) egress: Arc<dyn Egress>,
    pub(super) queues: Queues,
    /// The uplink its team chose last.
    pub(super) uplink: Option<u16>,
    /// False until that choice was published once.
    pub(super) placed: bool,
    /// The address its guest had programmed then.
    pub(super) seen_mac: Option<Mac>,
    /// What physical switches were told last: which address by which uplinks.
    pub(super) announced: Option<(Mac, Vec<u16>)>,
}

impl VnicPort {
    /// The flat policy its port group gives it.
    pub(super) fn policy(&self, config: &Config) -> Policy {
        let group = &config.portgroups[self.group];
        Policy { vlan: group.vlan.clone(), security: group.security, mac: config.vnics[self.config].mac.value }
    }
}

/// Spreads queues over workers, one after the other.
struct Spread {
    next: usize,
    workers: usize,
}

impl Spread {
    /// A vNIC's queues: all on one worker.
    fn place(&mut self, queues: Vec<Box<dyn Ingress>>) -> Queues {
        // A port's queues stay together: they feed one another's cache lines.
        let worker = self.next % self.workers;
        self.next += 1;
        queues.into_iter().map(|q| (Arc::new(IngressSlot::new(q)), worker)).collect()
    }

    /// An uplink's queues: each on the next worker.
    fn scatter(&mut self, queues: Vec<Box<dyn Ingress>>) -> Queues {
        let mut placed = Vec::new();
        for queue in queues {
            placed.extend(self.place(vec![queue]));
        }
        placed
    }
}

/// Opens every uplink of the configuration, in file order.
pub(super) fn open_uplinks(config: &Config, workers: &Arc<Workers>) -> Result<Vec<UplinkPort>, RunError> {
    let count = config.switch.workers.len();
    let mut spread = Spread { next: 0, workers: count };
    let mut ports = Vec::new();
    for uplink in &config.uplinks {
        let state = Arc::new(PortState::new());
        let (grace, mtu) = (workers.grace().clone(), config.switch.mtu);
        let mut control =
            Uplink::open_with(&uplink.name, &uplink.device, driver(uplink.driver), state.clone(), grace, mtu)
                .map_err(|error| RunError::Uplink { name: uplink.name.value.clone(), error })?;
        tracing::info!("uplink {} is {} by {} ({})", uplink.name, uplink.device, control.driver(), control.rung());
        let queues = spread.scatter(control.ingress());
        let egress = control.egress();
        let counters = Arc::new(Counters::new(count));
        ports.push(UplinkPort { name: uplink.name.value.clone(), control, state, counters, egress, queues });
    }
    Ok(ports)
}

/// Makes every vNIC of the configuration and binds its socket.
pub(super) fn bind_vnics(config: &Config, workers: &Arc<Workers>, first_id: usize) -> Result<Vec<VnicPort>, RunError> {
    let count = config.switch.workers.len();
    let mut spread = Spread { next: 0, workers: count };
    let mut ports = Vec::new();
    for (index, vnic) in config.vnics.iter().enumerate() {
        let state = Arc::new(PortState::new());
        let interrupts = Interrupts::new();
        let setup = Setup {
            name: vnic.name.value.clone(),
            mac: vnic.mac.value,
            mtu: config.switch.mtu,
            state: state.clone(),
            interrupts: interrupts.clone(),
            grace: workers.grace().clone(),
        };
        let mut model = device(vnic.adapter, setup).map_err(RunError::Loop)?;
        let queues = spread.place(model.ingress());
        let egress = model.egress();
        let path = config.vnic_socket(&vnic.name);
        let card = Card {
            name: vnic.name.value.clone(),
            model,
            state: state.clone(),
            interrupts: interrupts.clone(),
            grace: workers.grace().clone(),
        };
        let server =
            Server::bind(&path, card).map_err(|error| RunError::Vnic { name: vnic.name.value.clone(), error })?;
        ports.push(VnicPort {
            id: PortId((first_id + index) as u16),
            name: vnic.name.value.clone(),
            config: index,
            group: config.portgroup_index(&vnic.portgroup).unwrap_or(0),
            server,
            interrupts,
            state,
            counters: Arc::new(Counters::new(count)),
            egress,
            queues,
            uplink: None,
            placed: false,
            seen_mac: None,
            announced: None,
        });
    }
    Ok(ports)
}

fn driver(wish: config::Driver) -> uplink::Driver {
    match wish {
        config::Driver::Auto => uplink::Driver::Auto,
        config::Driver::AfXdp => uplink::Driver::AfXdp,
        config::Driver::AfPacket => uplink::Driver::AfPacket,
    }
}

fn device(adapter: Adapter, setup: Setup) -> std::io::Result<Box<dyn DeviceModel>> {
    match adapter {
        Adapter::Vlance => Ok(Box::new(vnic::vlance::Vlance::new(setup))),
        _ => Ok(Box::new(vnic::vmxnet3::Vmxnet3::new(setup)?)),
    }
}
