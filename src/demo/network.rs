//! The demo's network: the physical part, the switch, the VMs.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use control::api::{PortStatus, Status, ledger};
use control::show;
use testbed::netns::{Host, Lab, VethOptions, VlanShim};
use testbed::qemu::{Guest, GuestSpec, Nic};
use testbed::switch::SwitchProcess;

use super::stage::Stage;

/// A VM boots within this.
const BOOT: Duration = Duration::from_secs(90);
const COMMAND: Duration = Duration::from_secs(20);

const TABLES: &str = r#"
[[uplink]]
name = "vmnic0"
device = "eth1"

[[uplink]]
name = "vmnic1"
device = "eth2"

[[uplink]]
name = "vmnic2"
device = "eth3"

[team]
failure_detection = "beacon"

[beacon]
interval_ms = 200

[[portgroup]]
name = "Production"
vlan = 10

[[portgroup]]
name = "Laboratory"
vlan = 20

[[vnic]]
name = "web1"
portgroup = "Production"
adapter = "vmxnet3"
mac = "00:50:56:00:00:01"

[[vnic]]
name = "old1"
portgroup = "Production"
adapter = "vlance"
mac = "00:50:56:00:00:02"

[[vnic]]
name = "lab1"
portgroup = "Laboratory"
adapter = "vmxnet3"
mac = "00:50:56:00:00:03"
"#;

/// Everything the scenes play with. Torn down when dropped.
pub(super) struct Network {
    // VMs end before the switch, the switch before the namespaces.
    pub(super) guests: Vec<Guest>,
    pub(super) switch: SwitchProcess,
    pub(super) physical: Host,
    pub(super) lab: Lab,
    _outside: Host,
    _shim: VlanShim,
    _dir: tempfile::TempDir,
}

impl Network {
    pub(super) fn build(stage: &Stage) -> Result<Network> {
        stage.step("building a physical network out of namespaces: a switch, three cables, a host on VLAN 10");
        let lab = Lab::new("demo")?;
        let [machine, physical, outside] = [lab.host("host")?, lab.host("physical")?, lab.host("outside")?];
        for (device, plug) in [("eth1", "p1"), ("eth2", "p2"), ("eth3", "p3")] {
            lab.veth((&machine, device), (&physical, plug), &VethOptions::default())?;
        }
        lab.bridge(&physical, "br0", &["p1", "p2", "p3"], false)?;
        let shim = lab.vlan_shim((&outside, "eth0"), (&physical, "br0"), 10, 1500)?;
        outside.address("eth0", "10.0.0.100/24")?;

        stage.step("starting the switch: VLAN 10 and VLAN 20, uplinks vmnic0 to vmnic2, beacons every 200 ms");
        let dir = tempfile::tempdir()?;
        let head = format!("[switch]\nname = \"vSwitch0\"\nsocket_dir = \"{}\"\n", dir.path().display());
        let program = std::env::current_exe().context("finding this program")?;
        let switch = SwitchProcess::start(&program, Some(machine.namespace()), dir.path(), &(head + TABLES))?;

        stage.step("booting three VMs with stock QEMU and stock Linux drivers");
        let mut network =
            Network { guests: Vec::new(), switch, physical, lab, _outside: outside, _shim: shim, _dir: dir };
        for name in ["web1", "old1", "lab1"] {
            let nic = Nic::VfioUser { socket: network.switch.socket(name) };
            network.guests.push(Guest::boot(GuestSpec::new(name).nic(nic))?);
        }
        for (guest, number) in network.guests.iter_mut().zip(1..) {
            guest.wait_ready(BOOT)?;
            let driver = guest.sh_ok("ethtool -i eth0", COMMAND)?;
            let driver = driver.lines().next().unwrap_or("driver: unknown").to_owned();
            guest.sh_ok(&format!("ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up"), COMMAND)?;
            stage.shown(&format!("{} is up at 10.0.0.{number}, {driver}", guest.name()));
        }
        Ok(network)
    }

    /// The switch's status now.
    pub(super) fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.switch.show()?)?)
    }

    /// One port's status now.
    pub(super) fn port(&self, name: &str) -> Result<PortStatus> {
        let found = self.status()?.ports.into_iter().find(|p| p.name == name);
        found.with_context(|| format!("the switch shows no port {name}"))
    }

    /// Expects `from` (a guest's number) to reach an address, or not to.
    pub(super) fn reaches(&mut self, from: usize, address: &str) -> Result<bool> {
        let Some(guest) = self.guests.get_mut(from) else { bail!("there is no VM {from}") };
        Ok(guest.sh(&format!("ping -c 2 -i 0.2 -W 1 -w 3 {address}"), COMMAND)?.status == 0)
    }

    /// Ends VMs and switch, shows the final tables, and checks the sums.
    pub(super) fn close(mut self, stage: &Stage) -> Result<()> {
        let parse = |value: &serde_json::Value| Ok::<Status, anyhow::Error>(serde_json::from_value(value.clone())?);
        let holds = |value: &serde_json::Value| ledger::check(&parse(value)?).map_err(|e| anyhow::anyhow!("{e}"));
        let status = parse(&self.switch.show_when(holds)?)?;
        stage.shown("every frame is accounted for: on each port, in = forwarded + drops, offered = out + drops");
        stage.step("$ vswitch show");
        println!();
        println!("{}", show::render(None, &status));
        for guest in &mut self.guests {
            guest.kill()?;
        }
        let ended = self.switch.stop()?;
        ensure!(ended.success(), "the switch ended with {ended}: {}", self.switch.log());
        stage.step(&format!("done in {:.0} seconds", stage.elapsed().as_secs_f64()));
        Ok(())
    }
}
