//! What beacons cost: `cargo run --release -p vswitch-beacon --example cost`. Prints; judges nothing.

use std::hint::black_box;
use std::time::{Duration, Instant};

use beacon::{Beacon, Config, DEFAULT_ETHERTYPE, Key, Prober, SwitchId, Uplink, decode, encode};

/// Median of five of the time that one call of `work` takes.
fn measure(rounds: u32, mut work: impl FnMut()) -> f64 {
    let mut all = [0.0; 5];
    for one in &mut all {
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        *one = start.elapsed().as_nanos() as f64 / f64::from(rounds);
    }
    all.sort_by(f64::total_cmp);
    all[2]
}

/// Time that one second of probing takes, everything received by every other uplink: frames sent, frames received,
/// nanoseconds in the prober.
fn second(uplinks: u16, vlans: u16, interval: Duration) -> (u64, u64, u128) {
    let (mut now, key) = (Duration::from_secs(1), Key::new(SwitchId([1; 16]), &[2; 32], DEFAULT_ETHERTYPE));
    let config = Config { interval, ..Config::default() };
    let mut prober = Prober::new(config, key.clone(), 3, now).expect("within bounds");
    let list: Vec<Uplink> = (0..uplinks).map(|id| Uplink { id, mac: key.switch().source_mac(id) }).collect();
    prober.set_uplinks(&list, now).expect("few enough");
    prober.set_vlans(&(1..=vlans).collect::<Vec<_>>(), now);
    prober.set_teams(&[(0..uplinks).collect()], now);
    (0..uplinks).for_each(|id| prober.set_link(id, true, now));
    let (end, start, mut sent) = (now + Duration::from_secs(1), Instant::now(), Vec::new());
    while now < end {
        prober.poll(now, &mut |send| sent.push((send.uplink, send.vlan, send.frame.to_vec())));
        for (from, vlan, frame) in sent.drain(..) {
            for to in (0..uplinks).filter(|to| *to != from) {
                prober.receive(to, vlan, &frame, now);
            }
        }
        now = prober.next_due().unwrap_or(end);
    }
    let counters = (0..uplinks).filter_map(|id| prober.counters(id));
    let (sent, counted) = counters.fold((0, 0), |sum, c| (sum.0 + c.sent, sum.1 + c.counted));
    (sent, counted, start.elapsed().as_nanos())
}

fn main() {
    let key = Key::new(SwitchId([1; 16]), &[2; 32], DEFAULT_ETHERTYPE);
    let source = key.switch().source_mac(1);
    let beacon = Beacon { source, uplink: 1, nonce: 2, sequence: 3, vlan: 4, hears: 5 };
    let frame = encode(&beacon, &key);
    let mut forged = frame;
    forged[50] ^= 1;
    let foreign = encode(&beacon, &Key::new(SwitchId([9; 16]), &[2; 32], DEFAULT_ETHERTYPE));
    println!("encode and sign      {:7.0} ns", measure(200_000, || _ = black_box(encode(black_box(&beacon), &key))));
    println!("decode and verify    {:7.0} ns", measure(200_000, || _ = black_box(decode(black_box(&frame), &key))));
    println!("refuse a forged one  {:7.0} ns", measure(200_000, || _ = black_box(decode(black_box(&forged), &key))));
    println!("refuse a foreign one {:7.0} ns", measure(200_000, || _ = black_box(decode(black_box(&foreign), &key))));
    println!("\nuplinks VLANs interval  sent/s received/s  share of one CPU");
    for (uplinks, vlans, ms) in
        [(2, 1, 1000), (4, 1, 100), (4, 100, 1000), (4, 100, 100), (4, 100, 10), (32, 100, 1000)]
    {
        let (sent, counted, nanos) = second(uplinks, vlans, Duration::from_millis(ms));
        println!("{uplinks:7} {vlans:5} {ms:5} ms {sent:8} {counted:10} {:8.3} %", nanos as f64 / 1e7);
    }
}
