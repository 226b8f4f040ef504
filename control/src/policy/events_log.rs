//! What happened to uplinks and teams: log lines with stable ids, and the last ones kept for `vswitch show`.

use std::collections::VecDeque;
use std::time::Duration;

use beacon::Side;
use teaming::Severity;

/// Events kept.
const KEPT: usize = 64;

/// One event, in words.
#[derive(Clone, Debug)]
pub struct Told {
    /// Time since the switch's start.
    pub at: Duration,
    /// Its stable name.
    pub id: &'static str,
    /// One sentence.
    pub text: String,
}

/// The last events, oldest first.
#[derive(Default)]
pub struct EventLog {
    last: VecDeque<Told>,
}

impl EventLog {
    /// The last events, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Told> {
        self.last.iter()
    }

    /// Logs what a team told, for the port groups named; none named: for the whole switch.
    pub(super) fn add_team(
        &mut self,
        event: &teaming::Event,
        groups: &[&str],
        uplink: impl Fn(u16) -> String,
        port: impl Fn(u16) -> String,
    ) {
        let sentence = event.kind.sentence(uplink, port);
        let text = match groups {
            [] => sentence,
            [one] => format!("port group {one}: {sentence}"),
            many => format!("port groups {}: {sentence}", many.join(", ")),
        };
        self.add(event.at, event.kind.id(), event.kind.severity(), text);
    }

    /// Logs what the beacons' prober told.
    pub(super) fn add_beacon(&mut self, event: &beacon::Event, uplink: impl Fn(u16) -> String) {
        use beacon::EventKind as Kind;
        let place = event.vlan.map_or(String::new(), |v| format!(" on VLAN {v}"));
        let team = event.team.iter().map(|u| uplink(*u)).collect::<Vec<_>>().join(", ");
        let (severity, text) = match event.kind {
            Kind::Failed { uplink: u, side } => {
                let side = match side {
                    Side::Transmit => "the others do not hear it",
                    Side::Receive => "it does not hear the others",
                    Side::Both => "neither it nor the others hear",
                };
                (Severity::Warning, format!("beacons of uplink {} fail{place}: {side}", uplink(u)))
            }
            Kind::Restored { uplink: u } => {
                (Severity::Info, format!("beacons of uplink {} arrive again{place}", uplink(u)))
            }
            Kind::Cleared { uplink: u } => {
                (Severity::Info, format!("nothing can be said of uplink {} any more{place}", uplink(u)))
            }
            Kind::Filtered => (
                Severity::Warning,
                format!("no uplink of {team} hears any other{place}: beacons are filtered upstream"),
            ),
            Kind::FilteredCleared => (Severity::Info, format!("beacons get through again{place}")),
            Kind::ShotgunOn => (Severity::Warning, format!("a tie among {team}{place}: frames leave by all of them")),
            Kind::ShotgunOff => (Severity::Info, format!("no tie among {team} any more{place}")),
            Kind::TieOn => (Severity::Warning, format!("a tie among {team}{place}: their order stays as it is")),
            Kind::TieOff => (Severity::Info, format!("no tie among {team} any more{place}")),
            Kind::VlansLimited { unprobed } => {
                (Severity::Warning, format!("{unprobed} VLANs are not probed; the verdicts over all VLANs stand in"))
            }
        };
        self.add(event.at, event.id(), severity, text);
    }

    fn add(&mut self, at: Duration, id: &'static str, severity: Severity, text: String) {
        match severity {
            Severity::Info => tracing::info!(id, "{text}"),
            Severity::Warning => tracing::warn!(id, "{text}"),
            Severity::Error => tracing::error!(id, "{text}"),
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Told { at, id, text });
    }
}
