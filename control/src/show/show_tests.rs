use super::*;
use crate::api::status_sample as sample;

#[test]
fn the_switch() {
    assert_eq!(
        render(Some(What::Switch), &sample()),
        "vSwitch0: MTU 1500, up 1 h 2 min, vswitch 0.1.0\nworker on CPU 1: 3.1 % busy\n"
    );
}

#[test]
fn the_ports() {
    assert_eq!(
        render(Some(What::Ports), &sample()),
        "\
PORT    ROLE    ADAPTER  PORT GROUP  VLAN      MAC                CONNECTED  LINK  UPLINK  IN FRAMES     IN BYTES  OUT FRAMES  OUT BYTES      DROPS
web1    vnic    vmxnet3  Production  10        00:50:56:00:00:01  yes        up    vmnic0         10          840           9        760          0
vmnic0  uplink  -        -           -         -                  yes        up    -       1,234,576  104,932,071          11        940  1,234,568
vmnic1  uplink  -        -           -         -                  yes        up    -               0            0           5        300          0
old1    vnic    vlance   Trunk       10,20-29  00:50:56:00:00:02  no         down  -               0            0           0          0          0
"
    );
}

#[test]
fn the_uplinks() {
    assert_eq!(
        render(Some(What::Uplinks), &sample()),
        "\
UPLINK  DEVICE  DRIVER     LINK  STATE   BEACON  IN FRAMES     IN BYTES  OUT FRAMES  OUT BYTES      DROPS  KERNEL DROPS  RUNG
vmnic0  eth1    af_xdp     up    active  ok      1,234,576  104,932,071          11        940  1,234,568             0  copy, since eth1 has no zero-copy
vmnic1  eth2    af_packet  up    failed  failed          0            0           5        300          0             3  -

UPLINK  BEACONS SENT  HEARD  FOREIGN  FORGED  REPLAYED  BAD
vmnic0         1,240  1,238        7       1         0    2
"
    );
    let mut quiet = sample();
    quiet.ports.iter_mut().for_each(|p| p.beacons = None);
    assert!(!render(Some(What::Uplinks), &quiet).contains("BEACONS"));
}

#[test]
fn the_port_groups() {
    assert_eq!(
        render(Some(What::Portgroups), &sample()),
        "\
PORT GROUP  VLAN      VNICS  ACTIVE         STANDBY  GUESTS MAY
Production  10            1  vmnic0,vmnic1  -        -
Trunk       10,20-29      1  vmnic0         -        promiscuous,forged_transmits
"
    );
}

#[test]
fn the_drops() {
    assert_eq!(
        render(Some(What::Drops), &sample()),
        "\
PORT    REASON        FRAMES
vmnic0  no-match   1,234,567
vmnic0  ring-full          1
"
    );
}

#[test]
fn a_switch_with_nothing() {
    let mut status = sample();
    status.ports.clear();
    status.portgroups.clear();
    status.team.uplinks.clear();
    status.team.hears.clear();
    status.events.clear();
    for (what, text) in [
        (What::Uplinks, "no uplinks\n"),
        (What::Portgroups, "no port groups\n"),
        (What::Team, "load balancing port-id, failure detection beacon\nno uplinks\n"),
        (What::Drops, "no frame was dropped\n"),
    ] {
        assert_eq!(render(Some(what), &status), text);
    }
}

#[test]
fn everything_short() {
    let status = sample();
    let text = render(None, &status);
    for part in [What::Switch, What::Ports] {
        assert!(text.contains(&render(Some(part), &status)));
    }
    assert!(text.ends_with(&team::short(&status)) && !text.contains("last events"));
}

#[test]
fn durations() {
    for (seconds, text) in [(5, "5 s"), (65, "1 min 5 s"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")] {
        assert_eq!(duration(seconds), text);
    }
}
