//! The flap guard, case by case.

use std::time::Duration;

use teaming::{FLAP_LIMIT, FLAP_WINDOW, Links};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ids(links: &mut Links) -> Vec<&'static str> {
    links.events().iter().map(|e| e.kind.id()).collect()
}

/// Takes the link down and up `times` times, `every` apart; returns the time after.
fn flap(links: &mut Links, times: u32, every: Duration, from: Duration) -> Duration {
    for n in 0..times {
        links.set(0, false, from + every * n);
        links.set(0, true, from + every * n + every / 2);
    }
    from + every * times
}

#[test]
fn link_events_act_at_once() {
    let mut links = Links::default();
    assert!(links.set(0, true, ms(0)) && links.is_up(0));
    assert!(!links.set(0, true, ms(1)));
    assert!(links.set(0, false, ms(2)) && !links.is_up(0));
    assert!(!links.set(1, false, ms(3)) && !links.is_up(1) && !links.is_up(9));
    assert_eq!(ids(&mut links), ["uplink.link.down", "uplink.link.down"]);
    assert!(links.set(0, true, ms(4)));
    assert_eq!(
        (links.states().collect::<Vec<_>>(), ids(&mut links)),
        (vec![(0, true), (1, false)], vec!["uplink.link.up"])
    );
    links.forget(0);
    assert!(!links.is_up(0));
}

#[test]
fn the_sixtieth_down_in_a_minute_holds_it_down() {
    let mut links = Links::default();
    links.set(0, true, ms(0));
    let now = flap(&mut links, FLAP_LIMIT - 1, ms(1000), ms(0));
    assert!(links.is_up(0) && links.next_due().is_none());
    links.events();
    assert!(links.set(0, false, now));
    assert_eq!(ids(&mut links), ["uplink.link.down", "uplink.flapping"]);
    assert!(!links.set(0, true, now + ms(1)), "held");
    assert!(links.is_held(0) && !links.is_up(0));
    assert_eq!(links.next_due(), Some(now + FLAP_WINDOW));
    assert!(!links.tick(now + FLAP_WINDOW - ms(1)));
    assert!(links.tick(now + FLAP_WINDOW) && links.is_up(0) && !links.is_held(0));
    assert_eq!(ids(&mut links), ["uplink.link.up", "uplink.flapping.ended"]);
}

#[test]
fn slow_flapping_is_no_flapping() {
    let mut links = Links::default();
    links.set(0, true, ms(0));
    // 60 downs in a little more than a minute: never 60 within one.
    flap(&mut links, 1000, ms(1018), ms(0));
    assert!(links.is_up(0));
}

#[test]
fn a_down_while_held_holds_for_another_minute() {
    let mut links = Links::new(3);
    links.set(0, true, ms(0));
    let now = flap(&mut links, 3, ms(100), ms(0)) + ms(30_000);
    links.set(0, false, now);
    assert_eq!(links.next_due(), Some(now + FLAP_WINDOW));
    assert!(!links.tick(now + FLAP_WINDOW), "released, and without link");
    assert!(!links.is_held(0) && links.set(0, true, now + FLAP_WINDOW));
    // The count starts anew.
    flap(&mut links, 2, ms(10), now + FLAP_WINDOW);
    assert!(links.is_up(0));
}

#[test]
fn a_limit_of_zero_is_no_guard_and_one_holds_at_once() {
    let mut links = Links::new(0);
    links.set(0, true, ms(0));
    flap(&mut links, 10_000, ms(2), ms(0));
    assert!(links.is_up(0));
    let mut links = Links::new(1);
    links.set(0, true, ms(0));
    flap(&mut links, 1, ms(2), ms(5));
    assert!(links.is_held(0));
}
