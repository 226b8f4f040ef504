//! Schemes and what they hold back.

use std::time::Duration;

use super::*;

#[test]
fn schemes_and_their_words() {
    let counted = Scheme::Static { tx_depth: 64, tx: 0, rx: 128 };
    let good = [
        ([0; 4], Scheme::Disabled),
        ([1, 0, 0, 0], Scheme::Adaptive),
        ([2, 64, 0, 128], counted),
        ([3, 100, 0, 0], Scheme::Rate(100)),
        ([3, 100_000, 0, 0], Scheme::Rate(100_000)),
    ];
    for (words, scheme) in good {
        assert_eq!((Scheme::from_words(words), scheme.words()), (Some(scheme), words));
    }
    for bad in [[4, 0, 0, 0], [2, 0, 129, 0], [2, 0, 0, u32::MAX], [3, 99, 0, 0], [3, 100_001, 0, 0], [u32::MAX; 4]] {
        assert_eq!(Scheme::from_words(bad), None);
    }
}

#[test]
fn the_default_holds_nothing() {
    let moderation = Moderation::new();
    for scheme in [None, Some(Scheme::Disabled), Some(Scheme::Adaptive)] {
        scheme.into_iter().for_each(|s| moderation.set(s));
        assert!(!moderation.holds(0, Work::Received(1)) && !moderation.holding());
    }
    assert_eq!(moderation.take_due(), 0);
}

#[test]
fn so_many_completions_or_so_much_time() {
    let moderation = Moderation::new();
    moderation.set(Scheme::Static { tx_depth: 64, tx: 10, rx: 4 });
    assert!(moderation.holds(3, Work::Received(1)) && moderation.holds(3, Work::Received(2)));
    assert!(moderation.holds(24, Work::Sent(9)), "vectors count for themselves");
    assert!(!moderation.holds(3, Work::Received(1)), "the fourth");
    assert!(moderation.holds(3, Work::Received(3)), "and from the start again");
    assert!(moderation.holding());
    let mut due = 0;
    while due != 1 << 3 | 1 << 24 {
        due |= moderation.take_due();
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(!moderation.holding() && moderation.take_due() == 0, "each is given out once");
    assert!(!moderation.holds(200, Work::Sent(1)), "a vector there is not");
}

#[test]
fn at_most_so_many_per_second() {
    let moderation = Moderation::new();
    moderation.set(Scheme::Rate(100));
    assert!(!moderation.holds(0, Work::Received(1)), "the first at once");
    assert!(moderation.holds(0, Work::Sent(1)) && moderation.holds(0, Work::Received(50)));
    assert!(!moderation.holds(1, Work::Received(1)));
    let started = Instant::now();
    while moderation.take_due() != 1 {
        std::thread::sleep(Duration::from_micros(500));
    }
    assert!(started.elapsed() > Duration::from_millis(5), "not much before ten milliseconds are over");
    assert!(moderation.holds(0, Work::Received(1)), "what was given out counts");
    moderation.set(Scheme::Static { tx_depth: 1, tx: 100, rx: 100 });
    assert_eq!(moderation.take_due(), 1, "another scheme waits for nothing of the old one");
    assert!(moderation.holds(0, Work::Received(1)));
    moderation.forget();
    assert!(!moderation.holding() && moderation.scheme() == Scheme::Static { tx_depth: 1, tx: 100, rx: 100 });
}
