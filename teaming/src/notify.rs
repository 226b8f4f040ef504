//! Notify switches: when to send which announcement of which address by which uplink.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use wire::Mac;

/// Time from each announcement of a series to the next, in seconds: six frames at 0, 1, 2, 4, 7 and
/// 12 s. Fibonacci numbers, as the public capture of an ESX host shows to begin with; the end at six is ours.
pub const BACK_OFF: [u64; 5] = [1, 1, 2, 3, 5];
/// Most announcements in any one second (ESX `Net.NetMaxRarpsPerInterval`).
pub const PER_INTERVAL: usize = 128;
/// The time over which they are counted.
const INTERVAL: Duration = Duration::from_secs(1);

/// One announcement to send: [`crate::rarp_frame`] of `mac`, tagged with `vlan` (0: untagged), by `uplink`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Announcement {
    /// The port whose address it is.
    pub port: u16,
    /// The address.
    pub mac: Mac,
    /// VLAN identifier; 0: untagged.
    pub vlan: u16,
    /// The uplink.
    pub uplink: u16,
}

/// What is left of a series.
#[derive(Clone, Copy, Debug)]
struct Series {
    port: u16,
    due: Duration,
    sent: usize,
    /// Order of arrival.
    number: u64,
}

/// Decides when announcements go out.
///
/// Each is a series of six ([`BACK_OFF`]). A newer announcement of a port, or of the same address in the
/// same VLAN, replaces what is left of the older. No more than [`PER_INTERVAL`] go out in any second; what
/// is due then waits. The turn goes to ports that sent less within the second, then to series that
/// sent less: first announcements are not held up by repetitions, nor by one guest that changes its
/// address all the time.
#[derive(Clone, Debug)]
pub struct Notifier {
    series: BTreeMap<(u16, Mac, u16), Series>,
    /// When the announcements of the last second went out, and for which port; at most `limit`.
    log: VecDeque<(Duration, u16)>,
    limit: usize,
    number: u64,
}

impl Default for Notifier {
    fn default() -> Notifier {
        Notifier::new(PER_INTERVAL)
    }
}

impl Notifier {
    /// Nothing to announce. `limit` is the most announcements in any second, at least 1.
    pub fn new(limit: usize) -> Notifier {
        Notifier { series: BTreeMap::new(), log: VecDeque::new(), limit: limit.max(1), number: 0 }
    }

    /// Announces that port `port` has address `mac`, in each of `vlans` (0: untagged), by each of
    /// `uplinks` ([`crate::Choice::announce_by`]): on connect, failover, failback, move and change of
    /// address. Replaces what was left to announce of the port, and of the address in those VLANs; with
    /// no uplinks (`ip-hash`, or none works) it only does that. Group and zero addresses are not announced.
    pub fn announce(&mut self, port: u16, mac: Mac, vlans: &[u16], uplinks: &[u16], now: Duration) {
        self.series.retain(|(vlan, m, _), s| s.port != port && !(*m == mac && vlans.contains(vlan)));
        if mac.is_group() || mac.is_zero() {
            return;
        }
        for vlan in vlans {
            for uplink in uplinks {
                self.number += 1;
                let series = Series { port, due: now, sent: 0, number: self.number };
                self.series.insert((*vlan, mac, *uplink), series);
            }
        }
    }

    /// Drops what is left to announce of a port that is gone.
    pub fn forget(&mut self, port: u16) {
        self.series.retain(|_, s| s.port != port);
    }

    /// When [`Notifier::poll`] has something to send.
    pub fn next_due(&self) -> Option<Duration> {
        let due = self.series.values().map(|s| s.due).min()?;
        let full = self.log.len() >= self.limit;
        let room = self.log.front().filter(|_| full).map_or(Duration::ZERO, |(at, _)| at.saturating_add(INTERVAL));
        Some(due.max(room))
    }

    /// The announcements to send now, in order. Each counts as sent.
    pub fn poll(&mut self, now: Duration) -> Vec<Announcement> {
        while self.log.front().is_some_and(|(at, _)| now >= at.saturating_add(INTERVAL)) {
            self.log.pop_front();
        }
        let room = self.limit.saturating_sub(self.log.len());
        let mut out = self.due(now);
        out.truncate(room);
        for a in &out {
            self.log.push_back((now, a.port));
            self.advance((a.vlan, a.mac, a.uplink), now);
        }
        out
    }

    /// What is due, whose turn is first first.
    fn due(&self, now: Duration) -> Vec<Announcement> {
        let mut due: Vec<_> = self.series.iter().filter(|(_, s)| s.due <= now).collect();
        due.sort_by_key(|(_, s)| (s.sent, s.due, s.number));
        let mut turns: BTreeMap<u16, usize> = BTreeMap::new();
        for (_, port) in &self.log {
            *turns.entry(*port).or_default() += 1;
        }
        let mut ranked: Vec<_> = due
            .into_iter()
            .map(|((vlan, mac, uplink), s)| {
                let turn = turns.entry(s.port).or_default();
                *turn += 1;
                (*turn, Announcement { port: s.port, mac: *mac, vlan: *vlan, uplink: *uplink })
            })
            .collect();
        ranked.sort_by_key(|(turn, _)| *turn);
        ranked.into_iter().map(|(_, announcement)| announcement).collect()
    }

    fn advance(&mut self, key: (u16, Mac, u16), now: Duration) {
        let Some(series) = self.series.get_mut(&key) else { return };
        match BACK_OFF.get(series.sent) {
            Some(seconds) => {
                series.sent += 1;
                series.due = now.saturating_add(Duration::from_secs(*seconds));
            }
            None => _ = self.series.remove(&key),
        }
    }
}
