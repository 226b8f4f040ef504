//! What anyone on the network may send, driven by arbitrary bytes: the body of a fuzz target and of a test.

use std::time::Duration;

use crate::{BEACON_LEN, Config, Key, Prober, Received, SwitchId, Uplink, decode, encode};

/// Runs one input. The first four bytes choose: whether a true beacon is damaged or raw bytes are sent, uplink, VLAN,
/// position.
///
/// # Panics
/// When anything but a beacon that we sent is taken for one, or changes more than counters.
pub fn run(data: &[u8]) {
    let (choice, rest) = data.split_at(data.len().min(4));
    let choose = |at: usize| choice.get(at).copied().unwrap_or(0);
    let (mut prober, key, sent) = sample();
    let mut frame = sent.clone();
    if choose(0) & 1 == 0 {
        frame = rest.to_vec();
    } else {
        // Damage from a position on: bytes flipped by what is given, the end cut when it asks for it.
        let at = usize::from(choose(3)) % frame.len().max(1);
        frame[at..].iter_mut().zip(rest).for_each(|(byte, flip)| *byte ^= flip);
        frame.truncate(if choose(0) & 2 == 0 { frame.len() } else { at });
    }
    if let Ok(beacon) = decode(&frame, &key) {
        let (head, genuine) = (frame.first_chunk::<BEACON_LEN>(), encode(&beacon, &key));
        assert!(head.is_some_and(|head| *head == genuine));
        assert_eq!(frame.get(..BEACON_LEN), sent.get(..), "no one else has the key");
    }
    let before = prober.state.clone();
    let vlan = u16::from(choose(2) & 1) * 10;
    let received = prober.receive(u16::from(choose(1) & 3), vlan, &frame, Duration::from_secs(1));
    let genuine = frame.get(..BEACON_LEN) == sent.get(..) && choose(1) & 3 == 1 && vlan == 10;
    assert_eq!(received == Received::Counted, genuine, "{received:?}");
    assert_eq!(before == prober.state, received != Received::Counted, "only what counts changes anything");
}

/// A prober of two uplinks with link, its key, and the beacon that uplink 0 sent on VLAN 10.
fn sample() -> (Prober, Key, Vec<u8>) {
    let key = Key::new(SwitchId([7; 16]), &[9; 32], crate::DEFAULT_ETHERTYPE);
    let at = Duration::from_secs(1);
    let mut sent = Vec::new();
    let mut prober = Prober::new(Config::default(), key.clone(), 5, at).expect("the defaults are within bounds");
    let uplinks = [0, 1].map(|id| Uplink { id, mac: key.switch().source_mac(id) });
    prober.set_uplinks(&uplinks, at).expect("two uplinks are not too many");
    prober.set_vlans(&[10], at);
    prober.set_teams(&[vec![0, 1]], at);
    [0, 1].into_iter().for_each(|id| prober.set_link(id, true, at));
    prober.poll(at, &mut |send| sent = send.frame.to_vec());
    (prober, key, sent)
}
