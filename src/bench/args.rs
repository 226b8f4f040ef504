//! The words of `vswitch bench`.

use std::path::PathBuf;

use testbed::generator::{Sizes, StationSpec, parse_vlan};

use super::own::OwnKind;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One end: KIND:SOCKET[,mac=MAC][,vlan=N], KIND being virtio (a vhost-user socket of any switch; with ",server"
    /// the switch connects to it), vmxnet3 or vlance; or if:INTERFACE[,driver=auto|af-packet|af-xdp].
    #[arg(long, value_name = "STATION", required_unless_present = "own")]
    pub a: Option<StationSpec>,
    /// The other end.
    #[arg(long, value_name = "STATION", required_unless_present = "own")]
    pub b: Option<StationSpec>,
    /// A switch of the bench's own with two ports of this kind (virtio, vmxnet3, vlance), for a quick look; ended
    /// afterwards. Fails if not every frame is accounted for.
    #[arg(
        long = "self",
        value_name = "KIND",
        num_args = 0..=1,
        default_missing_value = "virtio",
        conflicts_with_all = ["a", "b", "socket"]
    )]
    pub own: Option<OwnKind>,
    /// Frame sizes in bytes, FCS included: 64, or 64,512, or imix.
    #[arg(long, default_value = "64")]
    pub size: Sizes,
    /// Both stations put the tag of this VLAN on their frames, on top of the size, and expect it on what comes; a
    /// station's own vlan=N has priority.
    #[arg(long, value_name = "N", value_parser = parse_vlan)]
    pub vlan: Option<u16>,
    /// Different UDP conversations.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub flows: u32,
    /// Different MAC addresses behind each station (the ports must allow them: forged_transmits, mac_learning).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub macs: u32,
    /// Percent of frames that go to everybody.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub broadcast: u32,
    /// Buffers of each station and direction; more than the cache holds (16384) makes every frame cold. Stations send from
    /// more when there are more kinds of frames.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub pool: u32,
    /// Descriptors of each virtio ring.
    #[arg(long, default_value_t = 256, value_parser = ring)]
    pub ring: u16,
    /// Send in both directions. Not with --latency alone: one frame at a time goes one way.
    #[arg(long)]
    pub bidirectional: bool,
    /// Frames per second in each direction; as fast as it goes without it.
    #[arg(long, value_name = "PPS", conflicts_with = "search", value_parser = positive)]
    pub rate: Option<f64>,
    /// Look for the highest rate without loss (RFC 2544).
    #[arg(long, conflicts_with = "latency")]
    pub search: bool,
    /// The share of frames a search may lose.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub loss: f64,
    /// How closely a search looks: the share of the rate it may be wrong by.
    #[arg(long, default_value_t = 0.01, value_parser = precision)]
    pub precision: f64,
    /// Send one frame at a time and measure how long each takes; with --rate, how long frames take under that load.
    #[arg(long)]
    pub latency: bool,
    /// Look into one of N frames that come to a card, whether it is of this run and as it was sent; 0: into none.
    /// Every one with --rate or --latency, one of 64 otherwise (looking takes time); on interfaces every one always.
    #[arg(long, value_name = "N")]
    pub check: Option<u32>,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// How long to send before that.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup: f64,
    /// The CPU to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// The control socket of the switch: afterwards every frame must be accounted for, or the bench fails. Other
    /// traffic of that switch has to rest by then.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print a JSON document.
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// Whether the words go together, as far as the parser cannot tell.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn together(&self) -> Result<(), String> {
        if self.latency && self.rate.is_none() && self.bidirectional {
            let sentence = "--latency without --rate sends one frame at a time, from a to b; give a --rate, or leave \
                            --bidirectional out";
            return Err(sentence.to_owned());
        }
        Ok(())
    }
}

/// A time a run may last.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err(format!("a time is 0 to 86400 seconds, and \"{text}\" is not")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err(format!("a share is 0 to less than 1, and \"{text}\" is not")),
    }
}

fn precision(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0001..=0.5).contains(&value) => Ok(value),
        _ => Err(format!("a precision is 0.0001 to 0.5, and \"{text}\" is not")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (1.0..=1e9).contains(&value) => Ok(value),
        _ => Err(format!("a rate is 1 to 1000000000 frames a second, and \"{text}\" is not")),
    }
}

fn ring(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(value) if value.is_power_of_two() && (32..=32_768).contains(&value) => Ok(value),
        _ => Err(format!("a ring has a power of two of descriptors, 32 to 32768, and \"{text}\" is not")),
    }
}
