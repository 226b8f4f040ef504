use super::*;
use crate::api::status_sample as sample;

#[test]
fn all_there_is_to_tell() {
    assert_eq!(
        render(&sample()),
        "\
default team, port group Production: load balancing port-id, failure detection beacon
UPLINK  LINK  BEACON  STATE   WHY
vmnic0  up    ok      active  in the order
vmnic1  up    failed  failed  beacons are not heard

port group Trunk: load balancing explicit, failure detection link
UPLINK  LINK  BEACON  STATE   WHY
vmnic0  up    off     active  in the order
vmnic1  up    off     unused  in neither list

beacons: time since the last one, and the VLANs on which none comes
LISTENER  HEARS vmnic0          HEARS vmnic1
vmnic0                          -
vmnic1    412 ms, not 20-22,29

last events, by seconds since the switch started
  AT (S)  EVENT               WHAT HAPPENED
3720.250  team.beacon.failed  uplink vmnic1 is cut off: its beacons fail
3720.251  team.failover       uplink vmnic1 is out of use (beacons fail); 1 moved
"
    );
}

#[test]
fn alarms() {
    let mut status = sample();
    status.portgroups.clear();
    status.team.uplinks.truncate(1);
    (status.team.hears, status.events) = (Vec::new(), Vec::new());
    (status.team.filtered, status.team.shotgun) = (true, true);
    assert_eq!(
        render(&status),
        "\
load balancing port-id, failure detection beacon
ALARM: no uplink hears another, so beacons are filtered upstream; link state decides
ALARM: shotgun, it is not known which uplinks are cut off; frames leave by all of them
UPLINK  LINK  BEACON  STATE   WHY
vmnic0  up    ok      active  in the order
"
    );
    assert_eq!(short(&status), render(&status));
}

/// An alarm in one port group shows there, and its view is not taken for that of the others.
#[test]
fn an_alarm_of_one_port_group() {
    let mut status = sample();
    status.portgroups[0].shotgun = true;
    let text = render(&status);
    assert!(text.starts_with("load balancing port-id"), "{text}");
    assert!(text.contains("port group Production: load balancing port-id, failure detection beacon\nALARM: shotgun"));
}

#[test]
fn what_an_older_switch_does_not_say_is_left_out() {
    let mut status = sample();
    for group in &mut status.portgroups {
        group.load_balancing.clear();
    }
    (status.team.hears, status.events) = (Vec::new(), Vec::new());
    assert_eq!(render(&status), short(&status));
}

#[test]
fn cells_of_the_matrix() {
    let pair = |age_ms, hears: &[u16], silent: &[u16]| {
        cell(&HearsStatus { age_ms, hears: hears.to_vec(), silent: silent.to_vec(), ..HearsStatus::default() })
    };
    assert_eq!(pair(Some(7), &[0], &[]), "7 ms");
    assert_eq!(pair(Some(7), &[5], &[0, 1, 2, 9]), "7 ms, not untagged,1-2,9");
    assert_eq!(pair(Some(9000), &[], &[0, 5]), "9000 ms, not any");
    assert_eq!(pair(None, &[], &[0, 5]), "-");
    assert_eq!(pair(None, &[], &[]), "-");
}

#[test]
fn only_the_last_events() {
    let mut status = sample();
    status.events = (0..64).map(|i| EventStatus { at_seconds: f64::from(i), ..status.events[0].clone() }).collect();
    let text = render(&status);
    assert!(!text.contains("47.000") && text.contains("48.000") && text.ends_with("its beacons fail\n"));
    assert_eq!(text.lines().filter(|l| l.contains("team.beacon.failed")).count(), SHOWN_EVENTS);
}
