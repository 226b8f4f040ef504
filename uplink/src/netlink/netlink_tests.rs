use super::*;
use crate::lab::{Netns, Tap, ip, wait};

/// Gathers events until one fits.
fn until(monitor: &mut LinkMonitor, what: &str, fits: impl Fn(&LinkEvent) -> bool) -> (LinkEvent, Vec<LinkEvent>) {
    let mut all = Vec::new();
    wait(what, || {
        all.extend(monitor.events());
        all.iter().any(&fits)
    });
    (all.iter().find(|e| fits(e)).unwrap().clone(), all)
}

#[test]
fn interfaces_come_change_and_go() {
    Netns::new().run(|| {
        let mut monitor = LinkMonitor::open().unwrap();
        let (lo, _) = until(&mut monitor, "the dump", |e| e.name == "lo");
        assert!(lo.exists && lo.up && !lo.ethernet);
        let tap = Tap::new("tap0");
        let (up, _) = until(&mut monitor, "tap0", |e| e.name == "tap0" && e.up);
        assert!(up.exists && up.admin_up && up.ethernet && up.mtu == 1500 && !up.mac.is_zero());
        assert_eq!(up, query("tap0").unwrap());
        tap.carrier(false);
        let (pulled, _) = until(&mut monitor, "carrier lost", |e| e.index == up.index && !e.up);
        assert!(pulled.admin_up && pulled.exists);
        tap.carrier(true);
        until(&mut monitor, "carrier", |e| e.index == up.index && e.up);
        ip("link set tap0 mtu 4000");
        until(&mut monitor, "mtu", |e| e.index == up.index && e.mtu == 4000);
        ip("link set tap0 down");
        until(&mut monitor, "down", |e| e.index == up.index && !e.admin_up && !e.up && e.exists);
        ip("link set tap0 name other");
        until(&mut monitor, "a new name", |e| e.index == up.index && e.name == "other");
        drop(tap);
        until(&mut monitor, "deletion", |e| e.index == up.index && !e.exists && !e.up);
        assert_eq!(query("other").unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn leaving_a_bridge_is_not_going_away() {
    Netns::new().run(|| {
        let _tap = Tap::new("tap0");
        let mut monitor = LinkMonitor::open().unwrap();
        ip("link add br0 type bridge");
        ip("link set tap0 master br0");
        ip("link set tap0 nomaster");
        ip("link set br0 up");
        ip("link del br0");
        let (_, all) = until(&mut monitor, "the bridge's end", |e| e.name == "br0" && !e.exists);
        assert!(all.iter().all(|e| e.name != "tap0" || e.exists), "{all:?}");
    });
}

#[test]
fn set_up_sets_up() {
    Netns::new().run(|| {
        let _tap = Tap::new("tap0");
        ip("link set tap0 down");
        let down = query("tap0").unwrap();
        assert!(!down.admin_up && !down.up);
        set_up(down.index).unwrap();
        wait("tap0 up", || query("tap0").unwrap().up);
        assert_eq!(set_up(u32::MAX / 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn lost_changes_are_made_up_for() {
    Netns::new().run(|| {
        let mut monitor = LinkMonitor::open().unwrap();
        let gone = Tap::new("gone0");
        let (gone_event, _) = until(&mut monitor, "gone0", |e| e.name == "gone0");
        rustix::net::sockopt::set_socket_recv_buffer_size(&monitor, 2048).unwrap();
        let kept = Tap::new("kept0");
        for _ in 0..40 {
            ip("link set kept0 down");
            ip("link set kept0 up");
        }
        drop(gone);
        let late = Tap::new("late0");
        let mut events = Vec::new();
        wait("all of it", || {
            events.extend(monitor.events());
            let last = |name: &str| events.iter().rev().find(|e: &&LinkEvent| e.name == name);
            last("late0").is_some_and(|e| e.exists)
                && last("kept0").is_some_and(|e| e.up)
                && last("gone0").is_some_and(|e| !e.exists)
        });
        assert!(monitor.sequence > 1, "the buffer was too small for all of it");
        assert!(events.iter().any(|e| e.index == gone_event.index && !e.exists));
        drop((kept, late));
    });
}

#[test]
fn torn_messages_do_no_harm() {
    let mut monitor = LinkMonitor::open().unwrap();
    let mut events = Vec::new();
    let mut message = vec![0u8; 64];
    message[..4].copy_from_slice(&64u32.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    // An attribute that says it is longer than the message.
    message[32..36].copy_from_slice(&[0xff, 0xff, 3, 0]);
    for len in 0..=message.len() {
        monitor.datagram(&message[..len], &mut events);
    }
    message[..4].copy_from_slice(&17u32.to_ne_bytes());
    monitor.datagram(&message, &mut events);
    message[..4].copy_from_slice(&0u32.to_ne_bytes());
    monitor.datagram(&message, &mut events);
    assert!(events.len() <= 1);
    assert!(parse_link(RTM_NEWLINK, &[0; 15]).is_none());
}
