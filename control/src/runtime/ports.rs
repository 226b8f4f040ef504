//! The ports as the control thread holds them: the control half of each card and uplink beside what
//! workers share of it.

use std::sync::Arc;

use dataplane::{Counters, Egress, Ingress, IngressSlot, PortId, PortState, RxFilter, Workers};
use portgroups::Policy;
use uplink::{Tap, TapSetup, Uplink};
use vnic::device::{DeviceModel, Setup};
use vnic::irq::Interrupts;
use vnic::vfio_user::{Card, Server};
use vnic::vhost_user::{self, CardSetup, Mode};
use wire::Mac;

use super::RunError;
use super::attachment::Attachment;
use crate::config::{self, Adapter, Config, Vnic};

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
    pub(super) attachment: Attachment,
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
    /// Each queue on the next worker; the next port goes on after the last of them.
    fn scatter(&mut self, queues: Vec<Box<dyn Ingress>>) -> Queues {
        let after = self.next + queues.len();
        let placed = self.fan_out(queues);
        self.next = after;
        placed
    }

    /// Each queue on the next worker; the next port goes on after the first of them.
    fn fan_out(&mut self, queues: Vec<Box<dyn Ingress>>) -> Queues {
        let first = self.next;
        self.next += 1;
        let placed = queues.into_iter().enumerate();
        placed.map(|(n, queue)| (Arc::new(IngressSlot::new(queue)), (first + n) % self.workers)).collect()
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

/// Makes every vNIC of the configuration: binds its socket, opens its interface.
pub(super) fn bind_vnics(config: &Config, workers: &Arc<Workers>, first_id: usize) -> Result<Vec<VnicPort>, RunError> {
    let count = config.switch.workers.len();
    let mut spread = Spread { next: 0, workers: count };
    let mut ports = Vec::new();
    for (index, vnic) in config.vnics.iter().enumerate() {
        let (state, interrupts) = (Arc::new(PortState::new()), Interrupts::new());
        let mut attachment = attach(config, vnic, &state, &interrupts, workers)?;
        let (queues, egress) = attachment.halves();
        let queues = match vnic.adapter {
            // A card of eight, whatever its driver uses: the first of two such ports are not to meet.
            Adapter::Vmxnet3 => spread.fan_out(queues),
            _ => spread.scatter(queues),
        };
        ports.push(VnicPort {
            id: PortId((first_id + index) as u16),
            name: vnic.name.value.clone(),
            config: index,
            group: config.portgroup_index(&vnic.portgroup).unwrap_or(0),
            attachment,
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

/// Makes the outer end of a vNIC.
fn attach(
    config: &Config,
    vnic: &Vnic,
    state: &Arc<PortState>,
    interrupts: &Arc<Interrupts>,
    workers: &Arc<Workers>,
) -> Result<Attachment, RunError> {
    let (name, mac, mtu, grace) = (&vnic.name.value, vnic.mac.value, config.switch.mtu, workers.grace());
    let path = config.vnic_socket(&vnic.name);
    let (state, interrupts, grace) = (state.clone(), interrupts.clone(), grace.clone());
    let refused = |error| RunError::Vnic { name: name.clone(), error };
    match vnic.adapter {
        Adapter::Vmxnet3 | Adapter::Vlance => {
            let (name, state, interrupts, grace) = (name.clone(), state.clone(), interrupts.clone(), grace.clone());
            let setup = Setup { name, mac, mtu, state, interrupts, grace };
            let (name, state, interrupts, grace) =
                (setup.name.clone(), setup.state.clone(), setup.interrupts.clone(), setup.grace.clone());
            let model = device(vnic.adapter, setup).map_err(RunError::Loop)?;
            let card = Card { name, model, state, interrupts, grace };
            Ok(Attachment::VfioUser(Box::new(Server::bind(&path, card).map_err(refused)?)))
        }
        Adapter::Virtio => {
            let setup = CardSetup { name: name.clone(), mac, mtu, pairs: vnic.queues, state, interrupts, grace };
            let mode = if vnic.vhost_client { Mode::Client } else { Mode::Server };
            Ok(Attachment::VhostUser(vhost_user::Server::bind(&path, setup, mode).map_err(refused)?))
        }
        Adapter::Netdev => {
            let interface = device_of(vnic);
            let opened = Uplink::open_with(name, interface, driver(vnic.driver), state.clone(), grace, mtu)
                .map_err(|error| RunError::Netdev { name: name.clone(), error })?;
            state.set_filter(takes_all(mac));
            tracing::info!("vNIC {name} is {interface} by {} ({})", opened.driver(), opened.rung());
            Ok(Attachment::Netdev(opened))
        }
        Adapter::Tap => {
            let interface = device_of(vnic);
            let setup = TapSetup { mac, mtu, queues: vnic.queues };
            let tap = Tap::open(name, interface, setup, state.clone(), grace)
                .map_err(|error| RunError::Netdev { name: name.clone(), error })?;
            state.set_filter(takes_all(mac));
            tracing::info!("vNIC {name} is tap interface {interface}");
            Ok(Attachment::Tap(tap))
        }
    }
}

fn device_of(vnic: &Vnic) -> &str {
    vnic.device.as_ref().map_or("", |d| d.value.as_str())
}

/// The filter of an interface: whoever is at the other end has started long ago, and sorts out itself what is for it.
fn takes_all(mac: Mac) -> RxFilter {
    RxFilter {
        mac: Some(mac),
        unicast: true,
        broadcast: true,
        all_multicast: true,
        promiscuous: true,
        ..RxFilter::closed()
    }
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
