//! `vswitch bench`: the packet generator.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use control::api::{client, ledger};
use serde_json::{Value, json};
use testbed::generator::{self, Load, Outcome, Rate, Sizes, Station, StationSpec};
use wire::Mac;

/// A rate no switch reaches, to start a search from, in frames per second.
const HIGHEST: f64 = 40e6;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One end: KIND:SOCKET[,mac=MAC], KIND being virtio (a vhost-user socket of any switch), vmxnet3 or vlance.
    #[arg(long, value_name = "STATION")]
    a: StationSpec,
    /// The other end.
    #[arg(long, value_name = "STATION")]
    b: StationSpec,
    /// Frame sizes in bytes, FCS included: 64, or 64,512, or imix.
    #[arg(long, default_value = "64")]
    size: Sizes,
    /// Different UDP conversations.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    flows: u32,
    /// Different MAC addresses behind each station (the ports must allow them: forged_transmits, mac_learning).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    macs: u32,
    /// Percent of frames that go to everybody.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    broadcast: u32,
    /// Buffers of each station and direction; more than the cache holds (16384) makes every frame cold.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pool: u32,
    /// Descriptors of each virtio ring.
    #[arg(long, default_value_t = 256, value_parser = ring)]
    ring: u16,
    /// Send in both directions.
    #[arg(long)]
    bidirectional: bool,
    /// Frames per second in each direction; as fast as it goes without it.
    #[arg(long, value_name = "PPS", conflicts_with = "search", value_parser = positive)]
    rate: Option<f64>,
    /// Look for the highest rate without loss (RFC 2544).
    #[arg(long, conflicts_with = "latency")]
    search: bool,
    /// The share of frames a search may lose.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Send one frame at a time and measure how long each takes.
    #[arg(long)]
    latency: bool,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// How long to send before that.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// The CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// The control socket of the switch: afterwards every frame must be accounted for.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print a JSON document.
    #[arg(long)]
    json: bool,
}

/// Generates what was asked for and prints what came of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(cpu) = args.cpu {
        pin(cpu)?;
    }
    let load = Load {
        sizes: args.size.clone(),
        flows: args.flows as usize,
        macs: args.macs as usize,
        broadcast: args.broadcast,
    };
    // Every kind of frame is in the pool equally often.
    let pool = (args.pool as usize).next_multiple_of(load.variety());
    let mut a = generator::open(&args.a, pool, args.ring, Mac([0x00, 0x50, 0x56, 0, 0, 1])).context("station a")?;
    let mut b = generator::open(&args.b, pool, args.ring, Mac([0x00, 0x50, 0x56, 0, 0, 2])).context("station b")?;
    let (mac_a, mac_b) = (a.mac(), b.mac());
    a.prepare(&load, mac_b)?;
    b.prepare(&load, mac_a)?;
    let mut document = if args.latency {
        latency(args, &mut *a, &mut *b)?
    } else if args.search {
        search(args, &mut *a, &mut *b)?
    } else {
        let rate = args.rate.map_or(Rate::Max, Rate::Pps);
        outcome_json(&measure(args, &mut *a, &mut *b, rate)?)
    };
    if let Some(socket) = &args.socket {
        document["ledger"] = check(socket)?.into();
    }
    if args.json {
        println!("{document}");
    } else {
        for (key, value) in document.as_object().into_iter().flatten() {
            println!("{key:>14}  {value}");
        }
    }
    Ok(())
}

fn measure(args: &Args, a: &mut dyn Station, b: &mut dyn Station, rate: Rate) -> Result<Outcome> {
    let live = std::io::stderr().is_terminal();
    let mut tell = |so_far: Outcome| {
        if live {
            eprint!("\r{:6.1} s  {:8.3} Mpps  {:9} lost ", so_far.seconds, so_far.mpps(), so_far.lost());
        }
    };
    let seconds = Duration::from_secs_f64;
    let outcome =
        generator::run([a, b], args.bidirectional, rate, seconds(args.warmup), seconds(args.seconds), &mut tell);
    if live {
        eprintln!();
    }
    outcome
}

fn search(args: &Args, a: &mut dyn Station, b: &mut dyn Station) -> Result<Value> {
    let trial = |rate| measure(args, a, b, Rate::Pps(rate));
    Ok(match generator::search(HIGHEST, args.loss, 0.01, trial)? {
        Some((rate, outcome)) => {
            let mut document = outcome_json(&outcome);
            document["rate_pps"] = rate.into();
            document
        }
        None => json!({"rate_pps": 0.0}),
    })
}

fn latency(args: &Args, a: &mut dyn Station, b: &mut dyn Station) -> Result<Value> {
    generator::latency(a, b, Duration::from_secs_f64(args.warmup))?;
    let (times, lost) = generator::latency(a, b, Duration::from_secs_f64(args.seconds))?;
    let at = |percent: f64| times.value_at_quantile(percent / 100.0) as f64 / 1e3;
    Ok(json!({
        "frames": times.len(),
        "lost": lost,
        "latency_us": {"p50": at(50.0), "p99": at(99.0), "p999": at(99.9), "max": times.max() as f64 / 1e3},
    }))
}

fn outcome_json(outcome: &Outcome) -> Value {
    json!({
        "sent": outcome.sent,
        "received": outcome.received,
        "lost": outcome.lost(),
        "seconds": outcome.seconds,
        "sent_mpps": outcome.sent as f64 / outcome.seconds / 1e6,
        "received_mpps": outcome.mpps(),
        "gbits": outcome.gbits(),
    })
}

/// "ok" when every frame the switch has seen is accounted for, else what is not.
fn check(socket: &std::path::Path) -> Result<String> {
    let status = client::show(socket, Duration::from_secs(5)).map_err(anyhow::Error::msg)?;
    Ok(ledger::check(&status).map_or_else(|error| error.to_string(), |()| "ok".to_owned()))
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

fn pin(cpu: usize) -> Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        anyhow::bail!("there is no CPU {cpu}");
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("running on CPU {cpu}"))
}
