//! The table of learnt addresses: what it keeps, what it forgets, who gives way, and many threads at once.

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use wire::Mac;

use super::{AGE, At, Learned, Outcome, PARTS, PER_PORT, REFRESH, Seconds, slots};
use crate::PortId;
use crate::snapshot::Address;

const START: Seconds = Seconds(0);

/// The `n`th unicast address of `port`'s block.
fn mac(port: u16, n: u32) -> Mac {
    let ([p, q], [_, a, b, c]) = (port.to_be_bytes(), n.to_be_bytes());
    Mac([0x02 | p << 2, q, 0, a, b, c])
}

fn later(seconds: u32) -> Seconds {
    Seconds(seconds)
}

/// Every port's count against the entries there are, and no address twice.
fn check(table: &Learned, now: Seconds) {
    let mut counts: HashMap<PortId, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for (vid, mac, port, _) in table.entries(now) {
        *counts.entry(port).or_default() += 1;
        assert!(seen.insert((vid, mac)), "{mac} of VLAN {vid} is there once");
        assert_eq!(table.lookup(&table.probe(Address::new(vid, mac)), now), Some(port));
    }
    for port in 0..=u16::MAX {
        let port = PortId(port);
        assert_eq!(table.count(port), counts.get(&port).copied().unwrap_or_default(), "{port:?}");
    }
}

#[test]
fn learns_refreshes_and_moves() {
    let table = Learned::new();
    let (one, two) = (PortId(1), PortId(2));
    let address = mac(9, 1);
    assert_eq!(table.lookup(&table.probe(Address::new(10, address)), START), None);
    assert_eq!(table.learn(&table.probe(Address::new(10, address)), one, START), Outcome::Added);
    assert_eq!(table.lookup(&table.probe(Address::new(10, address)), START), Some(one));
    assert_eq!(table.lookup(&table.probe(Address::new(11, address)), START), None, "another VLAN is another table");
    assert_eq!(table.learn(&table.probe(Address::new(10, address)), one, later(REFRESH)), Outcome::Known);
    assert_eq!(table.learn(&table.probe(Address::new(10, address)), one, later(REFRESH + 1)), Outcome::Refreshed);
    assert_eq!(table.learn(&table.probe(Address::new(10, address)), two, later(3)), Outcome::Moved);
    assert_eq!(table.lookup(&table.probe(Address::new(10, address)), later(3)), Some(two));
    assert_eq!((table.count(one), table.count(two)), (0, 1));
    assert_eq!(table.entries(later(5)).collect::<Vec<_>>(), [(10, address, two, 2)]);
    check(&table, later(5));
}

#[test]
fn a_known_address_is_not_written() {
    let table = Learned::new();
    table.learn(&table.probe(Address::new(0, mac(1, 1))), PortId(1), later(5));
    let words = |table: &Learned| -> Vec<u64> {
        let words = |at: At<'_>| [at.key.load(Ordering::Relaxed), at.value.load(Ordering::Relaxed)];
        table.buckets.iter().flat_map(slots).flat_map(words).collect()
    };
    let before = words(&table);
    for now in [5, 6, 4] {
        assert_eq!(
            table.learn(&table.probe(Address::new(0, mac(1, 1))), PortId(1), later(now)),
            Outcome::Known,
            "at {now}"
        );
    }
    assert!(words(&table) == before);
}

#[test]
fn some_addresses_are_nobodys() {
    let table = Learned::new();
    for (vid, address) in [(0, Mac([0; 6])), (10, Mac([0; 6])), (0, Mac::BROADCAST), (0, Mac::BPDU), (4095, mac(1, 1))]
    {
        assert_eq!(
            table.learn(&table.probe(Address::new(vid, address)), PortId(1), START),
            Outcome::Refused,
            "{address} in {vid}"
        );
        assert_eq!(table.lookup(&table.probe(Address::new(vid, address)), START), None);
    }
    assert_eq!(table.entries(START).count(), 0);
    assert_eq!(table.count(PortId(1)), 0);
}

#[test]
fn addresses_age() {
    let table = Learned::new();
    let (old, young) = (mac(1, 1), mac(1, 2));
    table.learn(&table.probe(Address::new(0, old)), PortId(1), START);
    table.learn(&table.probe(Address::new(0, young)), PortId(1), later(100));
    assert!(table.lookup(&table.probe(Address::new(0, old)), later(AGE)).is_some());
    assert_eq!(table.lookup(&table.probe(Address::new(0, old)), later(AGE + 1)), None, "too old before it is swept");
    assert_eq!(table.count(PortId(1)), 2);
    (0..PARTS).for_each(|part| table.sweep(later(AGE + 1), part));
    assert_eq!(table.count(PortId(1)), 1);
    assert_eq!(table.lookup(&table.probe(Address::new(0, young)), later(AGE + 1)), Some(PortId(1)));
    check(&table, later(AGE + 1));
    // Aged, not swept, and there again: at its port or at another.
    assert_eq!(table.learn(&table.probe(Address::new(0, young)), PortId(1), later(2 * AGE)), Outcome::Refreshed);
    assert_eq!(table.learn(&table.probe(Address::new(0, young)), PortId(2), later(4 * AGE)), Outcome::Added);
    check(&table, later(4 * AGE));
}

/// Stamps are kept modulo 2^20: the age is right across the turn.
#[test]
fn time_goes_round() {
    let table = Learned::new();
    let turn = 1 << 20;
    table.learn(&table.probe(Address::new(0, mac(1, 1))), PortId(1), later(turn - 10));
    assert_eq!(table.entries(later(turn + 20)).next().map(|e| e.3), Some(30));
    assert_eq!(table.lookup(&table.probe(Address::new(0, mac(1, 1))), later(turn - 9 + AGE)), None);
    assert!(
        table.lookup(&table.probe(Address::new(0, mac(1, 1))), later(turn - 12)).is_some(),
        "a worker whose clock is behind"
    );
}

#[test]
fn a_port_that_goes_takes_its_addresses() {
    let table = Learned::new();
    for n in 0..500 {
        for port in [3, 4] {
            table.learn(&table.probe(Address::new(7, mac(port, n))), PortId(port), START);
        }
    }
    table.forget_port(PortId(3));
    assert_eq!((table.count(PortId(3)), table.count(PortId(4))), (0, 500));
    assert!((0..500).all(|n| table.lookup(&table.probe(Address::new(7, mac(3, n))), START).is_none()));
    check(&table, START);
}

/// 64 Ki addresses of 16 ports with all they may have: each is found.
#[test]
fn sixty_four_thousand_addresses() {
    let table = Learned::new();
    for n in 0..PER_PORT {
        for port in 0..16 {
            assert_eq!(
                table.learn(&table.probe(Address::new(port, mac(port, n))), PortId(port), START),
                Outcome::Added,
                "{n} of {port}"
            );
        }
    }
    check(&table, START);
    assert_eq!(table.entries(START).count(), 65536);
}

#[test]
fn a_port_has_its_limit() {
    let table = Learned::new();
    let outcomes: Vec<_> =
        (0..50_000).map(|n| table.learn(&table.probe(Address::new(0, mac(1, n))), PortId(1), START)).collect();
    assert_eq!(table.count(PortId(1)), PER_PORT as usize);
    assert!(outcomes[..PER_PORT as usize].iter().all(|o| *o == Outcome::Added));
    assert!(outcomes.contains(&Outcome::Refused));
    // At its limit it still may take over an address, for one of its own or not at all.
    table.learn(&table.probe(Address::new(0, mac(2, 1))), PortId(2), START);
    let outcome = table.learn(&table.probe(Address::new(0, mac(2, 1))), PortId(1), START);
    assert!(matches!(outcome, Outcome::Moved | Outcome::Refused));
    assert_eq!(table.count(PortId(1)), PER_PORT as usize);
    check(&table, START);
}

/// `count` addresses that all have `home` as one of their two buckets.
fn neighbours(table: &Learned, home: usize, count: usize) -> Vec<Mac> {
    let all = (77..80).flat_map(|port| (0..1 << 24).map(move |n| mac(port, n)));
    all.filter(|m| table.probe(Address::new(0, *m)).buckets()[0] == home).take(count).collect()
}

/// Aged entries give way first, then the oldest of whoever has most.
#[test]
fn who_gives_way() {
    let table = Learned::new();
    // More than a part has slots, so nearly all its buckets are full.
    let addresses = neighbours(&table, 5, 900);
    let [heavy, light] = [PortId(1), PortId(2)];
    // That of the light port is the oldest of all.
    assert_eq!(table.learn(&table.probe(Address::new(0, addresses[0])), light, START), Outcome::Added);
    let (rest, more) = addresses[1..].split_at(800);
    let tick = |n: usize| later(1 + n as u32 / 4);
    for (n, address) in rest.iter().enumerate() {
        assert_eq!(table.learn(&table.probe(Address::new(0, *address)), heavy, tick(n)), Outcome::Added);
    }
    let now = tick(rest.len());
    assert_eq!(
        table.lookup(&table.probe(Address::new(0, addresses[0])), now),
        Some(light),
        "the oldest, and not the one to go"
    );
    let full = |m: &&Mac| table.candidates(&table.probe(Address::new(0, **m))).count() == 16;
    let newcomer = *more.iter().find(full).unwrap();
    let place = table.probe(Address::new(0, newcomer));
    let ages = |port: PortId| -> Vec<u32> {
        let theirs = table.candidates(&place).filter(|(_, value)| value.port() == port);
        let mut ages: Vec<u32> = theirs.map(|(_, value)| value.age(now)).collect();
        ages.sort_unstable();
        ages
    };
    let (mut heavy_before, light_before) = (ages(heavy), ages(light));
    assert_eq!(table.learn(&table.probe(Address::new(0, newcomer)), light, now), Outcome::Added);
    heavy_before.pop();
    assert_eq!(ages(heavy), heavy_before, "its oldest went");
    assert_eq!(ages(light), [&[0], &light_before[..]].concat());
    check(&table, now);
    // Once all are too old, they make room for anybody.
    let late = later(now.0 + AGE + 1);
    assert_eq!(table.learn(&table.probe(Address::new(0, newcomer)), PortId(3), late), Outcome::Added);
    assert_eq!(table.count(PortId(3)), 1);
}

/// A port with as many as another takes nothing from it, however often it tries.
#[test]
fn equals_take_nothing_from_each_other() {
    let table = Learned::new();
    let addresses = neighbours(&table, 9, 900);
    let (first, more) = addresses.split_at(600);
    for pair in first.chunks(2) {
        pair.iter()
            .zip([1, 2])
            .for_each(|(m, port)| _ = table.learn(&table.probe(Address::new(0, *m)), PortId(port), START));
    }
    // Whoever fell behind catches up.
    let (level, more) = more.split_at(150);
    level.iter().for_each(|m| _ = table.learn(&table.probe(Address::new(0, *m)), PortId(2), START));
    let of_one = || table.entries(later(1)).filter(|e| e.2 == PortId(1)).map(|e| e.1).collect::<HashSet<_>>();
    let before = of_one();
    assert!(before.len() > 100 && table.count(PortId(2)) + 1 >= before.len());
    more.iter().for_each(|m| _ = table.learn(&table.probe(Address::new(0, *m)), PortId(2), later(1)));
    assert_eq!(of_one(), before);
    check(&table, later(1));
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u16, u32, u16),
    Wait(u32),
    Sweep,
    Forget(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0u16..3, 0u32..40, 1u16..5).prop_map(|(v, m, p)| Step::Learn(v, m, p)),
        3 => (0u32..400).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
        1 => (1u16..5).prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// While there is room the table is a map with ages.
    #[test]
    fn it_is_a_map(steps in steps()) {
        let table = Learned::new();
        let mut model: HashMap<(u16, u32), (u16, u32)> = HashMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Learn(vid, n, port) => {
                    table.learn(&table.probe(Address::new(vid, mac(0, n))), PortId(port), later(now));
                    let entry = model.entry((vid, n)).or_insert((port, now));
                    let fresh = entry.0 == port && now - entry.1 <= REFRESH;
                    *entry = if fresh { *entry } else { (port, now) };
                }
                Step::Wait(seconds) => now += seconds,
                Step::Sweep => (0..PARTS).for_each(|part| table.sweep(later(now), part)),
                Step::Forget(port) => {
                    table.forget_port(PortId(port));
                    model.retain(|_, (p, _)| *p != port);
                }
            }
            for vid in 0..3 {
                for n in 0..40 {
                    let there = model.get(&(vid, n)).filter(|(_, stamp)| now - stamp <= AGE);
                    prop_assert_eq!(table.lookup(&table.probe(Address::new(vid, mac(0, n))), later(now)), there.map(|(p, _)| PortId(*p)));
                }
            }
        }
        let mut ages: Vec<_> = table.entries(later(now)).map(|(v, m, p, age)| (v, m, p.0, age)).collect();
        let live = model.iter().filter(|(_, (_, stamp))| now - stamp <= AGE);
        let mut expected: Vec<_> = live.map(|((v, n), (p, stamp))| (*v, mac(0, *n), *p, now - stamp)).collect();
        ages.sort();
        expected.sort();
        prop_assert_eq!(ages, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// More attackers than the table has room for, each from ever new addresses, among ports that have up to a
    /// quarter of what is allowed: those lose nothing, and can still learn.
    #[test]
    fn attackers_push_nobody_out(
        quiet in prop::collection::vec(1u32..1024, 1..6),
        attackers in 1u16..60,
        seed in any::<u32>(),
    ) {
        let table = Learned::new();
        for (port, count) in (1..).zip(&quiet) {
            (0..*count).for_each(|n| _ = table.learn(&table.probe(Address::new(1, mac(port, n))), PortId(port), START));
        }
        let mut number = seed;
        for _ in 0..6000 {
            for attacker in 0..attackers {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let address = mac(1000 + (number >> 24) as u16 % 64, number & 0xff_ffff);
                table.learn(&table.probe(Address::new(1, address)), PortId(100 + attacker), later(1));
            }
        }
        for (port, count) in (1..).zip(&quiet) {
            for n in 0..*count {
                prop_assert_eq!(table.lookup(&table.probe(Address::new(1, mac(port, n))), later(1)), Some(PortId(port)), "{} of {}", n, port);
            }
            prop_assert_eq!(table.learn(&table.probe(Address::new(1, mac(port, 1 << 20))), PortId(port), later(1)), Outcome::Added);
        }
        check(&table, later(1));
    }
}

/// Writers on one bucket, the control thread dropping entries under them, and readers: an address is never found at
/// another one's port.
#[test]
fn threads_see_no_mixed_entries() {
    let table = Learned::new();
    let addresses = neighbours(&table, 77, 64);
    let port_of = |n: usize| PortId(1 + n as u16 % 7);
    let done = AtomicBool::new(false);
    let found = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 0..2usize {
            let (table, addresses, done) = (&table, &addresses, &done);
            scope.spawn(move || {
                let mut n = writer;
                let mut now = 0;
                while !done.load(Ordering::Relaxed) {
                    n = (n * 5 + 2 * writer + 1) % addresses.len();
                    now += 1;
                    table.learn(&table.probe(Address::new(0, addresses[n])), port_of(n), Seconds(now / 64 % AGE));
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for (n, address) in addresses.iter().enumerate() {
                        if let Some(port) = table.lookup(&table.probe(Address::new(0, *address)), START) {
                            assert_eq!(port, port_of(n), "{address}");
                            found.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(500);
        let mut round = 0;
        while Instant::now() < end || (found.load(Ordering::Relaxed) < 1000 && round < 10_000_000) {
            round += 1;
            table.forget_port(PortId(1 + round as u16 % 7));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(found.load(Ordering::Relaxed) >= 1000);
    check(&table, START);
}

/// One address at two ports in turn, and two readers: always one of the two, never gone; the counts come out.
#[test]
fn moves_are_never_misses() {
    let table = Learned::new();
    table.learn(&table.probe(Address::new(0, mac(5, 5))), PortId(1), START);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for port in [1, 2] {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                for _ in 0..200_000 {
                    table.learn(&table.probe(Address::new(0, mac(5, 5))), PortId(port), START);
                }
                done.store(true, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(matches!(table.lookup(&table.probe(Address::new(0, mac(5, 5))), START), Some(PortId(1 | 2))));
            }
        });
    });
    assert_eq!(table.count(PortId(1)) + table.count(PortId(2)), 1);
    check(&table, START);
}

/// Two threads learn the same new addresses: none is entered twice.
#[test]
fn nothing_is_entered_twice() {
    let table = Learned::new();
    std::thread::scope(|scope| {
        for port in [1, 2] {
            let table = &table;
            scope.spawn(move || {
                (0..4000).for_each(|n| _ = table.learn(&table.probe(Address::new(0, mac(5, n))), PortId(port), START))
            });
        }
    });
    check(&table, START);
}

/// What a look-up and a known address cost, printed: the best of a few rounds.
#[test]
fn what_it_costs() {
    for count in [1u32, 512, 65_536] {
        let table = Learned::new();
        let port = |n: usize| PortId(n as u16 % 16);
        let addresses: Vec<Mac> = (0..count).map(|n| mac(n as u16 % 16, n)).collect();
        addresses
            .iter()
            .enumerate()
            .for_each(|(n, m)| _ = table.learn(&table.probe(Address::new(10, *m)), port(n), START));
        let best = |act: &dyn Fn(usize)| {
            let round = || {
                let begin = Instant::now();
                (0..1 << 18).for_each(|n: usize| act(n.wrapping_mul(7919) & (addresses.len() - 1)));
                begin.elapsed().as_nanos() as f64 / f64::from(1 << 18)
            };
            (0..20).map(|_| round()).fold(f64::MAX, f64::min)
        };
        let nothing = best(&|n| _ = black_box(addresses[n]));
        let look = best(&|n| _ = black_box(table.lookup(&table.probe(Address::new(10, addresses[n])), START)));
        let miss = best(&|n| _ = black_box(table.lookup(&table.probe(Address::new(11, addresses[n])), START)));
        let known = best(&|n| _ = black_box(table.learn(&table.probe(Address::new(10, addresses[n])), port(n), START)));
        println!("{count}: look-up {look:.1} ns, unknown {miss:.1}, known again {known:.1}; the loop {nothing:.1}");
        assert_eq!(table.entries(START).count(), count as usize);
    }
}
