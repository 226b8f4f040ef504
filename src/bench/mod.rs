//! `vswitch bench`: the packet generator.

mod args;
mod iface;
mod own;
mod report;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use control::api::{client, ledger};
use serde_json::{Value, json};
use testbed::generator::{self, Checker, End, Load, Opening, Outcome, Place, Plan, Rate, Station, StationSpec, Stream};
use wire::Mac;

pub(crate) use args::Args;
use iface::Interface;
use own::{Needs, Own};
use report::Times;

/// A rate no switch reaches, to start a search from, in frames per second.
const HIGHEST: f64 = 40e6;
/// At full speed, one of so many frames is looked into.
const SAMPLE: u32 = 64;
/// Different frames a station can keep.
const MOST_KINDS: usize = 262_144;

/// Generates what was asked for and prints what came of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let needs = Needs { tagged: args.vlan.is_some(), learning: args.macs > 1 };
    // Before this process binds itself to a CPU, which the switch is not to inherit.
    let own = args.own.map(|kind| Own::start(kind, needs)).transpose().context("a switch of its own")?;
    if let Some(cpu) = args.cpu {
        pin(cpu)?;
    }
    let specs = match (&own, &args.a, &args.b) {
        (Some(own), ..) => own.stations(),
        (None, Some(a), Some(b)) => [a.clone(), b.clone()],
        _ => bail!("two stations are needed"),
    };
    let mut bench = Bench::new(args, specs)?;
    let mut document = bench.measure()?;
    for (side, driver) in ["a", "b"].into_iter().zip(&bench.drivers) {
        if let Some(driver) = driver {
            document[side]["driver"] = driver.clone().into();
        }
    }
    let sums = match (&own, &args.socket) {
        (Some(own), _) => Some(own.sums(&mut bench.ends)),
        (None, Some(socket)) => Some(sums(socket)),
        // Nobody to ask.
        (None, None) => None,
    };
    if let Some(sums) = &sums {
        document["ledger"] = sums.as_ref().map_or_else(|error| format!("{error:#}"), |()| "ok".to_owned()).into();
    }
    // The guests leave before their switch does.
    drop(bench);
    let ended = own.map_or(Ok(()), Own::end);
    println!("{}", if args.json { document.to_string() } else { report::text(&document) });
    sums.unwrap_or(Ok(())).context("frames are not all accounted for").and(ended)
}

/// What is measured with.
struct Bench<'a> {
    args: &'a Args,
    ends: [End; 2],
    /// How interfaces are driven.
    drivers: [Option<String>; 2],
    stop: Arc<AtomicBool>,
}

impl Bench<'_> {
    fn new(args: &Args, mut specs: [StationSpec; 2]) -> Result<Bench<'_>> {
        let load = Load {
            sizes: args.size.clone(),
            flows: args.flows as usize,
            macs: args.macs as usize,
            broadcast: args.broadcast,
        };
        let kinds = load.variety();
        ensure!(
            kinds <= MOST_KINDS,
            "sizes, flows, addresses and broadcasts meet in {kinds} different frames, and {MOST_KINDS} are the most; \
             choose numbers with common factors"
        );
        for spec in &mut specs {
            spec.vlan = spec.vlan.or(args.vlan);
        }
        let rx_pool = (args.pool as usize).max(args.ring.into());
        // Every kind of frame is in the pool equally often. What is sent says nothing of the buffers it comes to.
        let tx_pool = rx_pool.next_multiple_of(kinds);
        let open = |at: usize, name: &str| {
            let mac = Mac([0x00, 0x50, 0x56, 0, 0, at as u8 + 1]);
            let opening = Opening { tx_pool, rx_pool, ring: args.ring, mac };
            open(&specs[at], opening).with_context(|| format!("station {name}"))
        };
        let [(mut a, driver_a), (mut b, driver_b)] = [open(0, "a")?, open(1, "b")?];
        let run = run_number();
        let stream = |at: usize, from: Mac, to: Mac| Stream {
            load: load.clone(),
            run: run | at as u16,
            from,
            to,
            tag: specs[at].tag(),
        };
        let (out, back) = (stream(0, a.mac(), b.mac()), stream(1, b.mac(), a.mac()));
        a.prepare(&out).context("station a")?;
        b.prepare(&back).context("station b")?;
        let paced = args.rate.is_some() || args.latency;
        let every = args.check.unwrap_or(if paced { 1 } else { SAMPLE });
        let checker = |stream: &Stream, at: usize| Checker::new(stream, specs[at].vlan, every);
        let ends = [End::new(a, checker(&back, 0)), End::new(b, checker(&out, 1))];
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the program at once.
            signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())?;
            signal_hook::flag::register(signal, stop.clone())?;
        }
        Ok(Bench { args, ends, drivers: [driver_a, driver_b], stop })
    }

    /// Does what was asked for.
    fn measure(&mut self) -> Result<Value> {
        let args = self.args;
        if args.search {
            return self.search();
        }
        if args.latency && args.rate.is_none() {
            let plan = plan(args, Rate::Max, &self.stop);
            let (outcome, times) = live(|tell| generator::latency(&mut self.ends, &plan, tell))?;
            let mut document = report::outcome(&outcome);
            report::add_times(&mut document, &times);
            return Ok(document);
        }
        let (outcome, times) = self.trial(args.rate.map_or(Rate::Max, Rate::Pps))?;
        let mut document = report::outcome(&outcome);
        if let Some(times) = times {
            ensure!(!times.is_empty(), "no marked frame came from one station to the other");
            report::add_times(&mut document, &times);
        }
        Ok(document)
    }

    fn trial(&mut self, rate: Rate) -> Result<(Outcome, Option<Times>)> {
        let plan = plan(self.args, rate, &self.stop);
        live(|tell| generator::run(&mut self.ends, &plan, tell))
    }

    fn search(&mut self) -> Result<Value> {
        let (loss, precision) = (self.args.loss, self.args.precision);
        let trial = |rate| {
            let (outcome, _) = self.trial(Rate::Pps(rate))?;
            ensure!(!self.stop.load(std::sync::atomic::Ordering::Relaxed), "interrupted");
            Ok(outcome)
        };
        Ok(match generator::search(HIGHEST, loss, precision, trial)? {
            Some((rate, outcome)) => {
                let mut document = report::outcome(&outcome);
                document["rate_pps"] = rate.into();
                document
            }
            None => json!({"rate_pps": 0.0}),
        })
    }
}

/// Has `run` tell what came so far, in one line that changes; where nobody looks on, nothing.
fn live<T>(run: impl FnOnce(&mut dyn FnMut(Outcome)) -> Result<T>) -> Result<T> {
    if !std::io::stderr().is_terminal() {
        return run(&mut |_| {});
    }
    let outcome = run(&mut |so_far| {
        eprint!("\r{:6.1} s  {:8.3} Mpps  {:9} lost ", so_far.seconds, so_far.mpps(), so_far.lost());
    });
    eprintln!();
    outcome
}

fn plan<'s>(args: &Args, rate: Rate, stop: &'s AtomicBool) -> Plan<'s> {
    Plan {
        both: args.bidirectional,
        rate,
        warmup: Duration::from_secs_f64(args.warmup),
        length: Duration::from_secs_f64(args.seconds),
        timed: args.latency,
        stop,
    }
}

/// Opens a station; of an interface also says by which driver.
fn open(spec: &StationSpec, opening: Opening) -> Result<(Box<dyn Station>, Option<String>)> {
    match &spec.place {
        Place::Card { .. } => Ok((generator::open(spec, opening)?, None)),
        Place::Interface { device, driver } => {
            let station = Interface::open(device, *driver, spec.mac.unwrap_or(opening.mac))?;
            let driver = station.driver();
            Ok((Box::new(station), Some(driver)))
        }
    }
}

/// Tells this run's frames from those of another that goes on at the same time, or went on before; even.
fn run_number() -> u16 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.subsec_nanos() ^ std::process::id() << 4) as u16 & !1
}

/// Once traffic rests, every frame the switch behind `socket` has seen is accounted for.
fn sums(socket: &Path) -> Result<()> {
    own::settled(|| {
        let status = client::show(socket, Duration::from_secs(5)).map_err(anyhow::Error::msg)?;
        Ok(ledger::check(&status).map_err(anyhow::Error::msg))
    })
}

fn pin(cpu: usize) -> Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        bail!("there is no CPU {cpu}");
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("running on CPU {cpu}"))
}
