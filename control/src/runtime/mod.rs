//! The running switch: the control thread's event loop around workers, cards and uplinks.
//!
//! ```text
//!             mio poll
//!   signals ----+---- vNIC listeners and connections --> vfio_user::Server --> device models
//!   netlink ----+---- control socket ------------------> status documents
//!                |
//!   link change, address change --> teams decide --> Snapshot built and published --> workers
//! ```
//!
//! Everything here runs on one thread and never waits for a peer; only a grace period (a worker's
//! turn) is waited for.

mod api_server;
mod attachment;
mod events;
mod load;
mod ports;
mod publish;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::{DropReason, Idle, Inbox, LEARNED_PARTS, Learned, Originator, PortId, Seconds, Snapshot, Workers};
use mio::{Events, Poll};
use uplink::netlink::LinkMonitor;
use wire::Tag;

use self::api_server::ApiServer;
use self::load::LoadMeter;
use self::ports::{UplinkPort, VnicPort};
use crate::config::Config;
use crate::policy::{Policies, Seed};

/// How often busy shares are sampled and slow housekeeping is done.
const SAMPLE: Duration = Duration::from_millis(500);
/// How often the uplinks' carriers are asked for, beside the news the kernel sends by itself.
const CARRIER_LOOK: Duration = Duration::from_millis(20);

/// Why the switch could not start or had to stop. One sentence each, with the mend where there is one.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket directory cannot be made.
    #[error("cannot make the socket directory {}: {error}; give [switch] socket_dir a place this user may write", .path.display())]
    SocketDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A vNIC's socket cannot be served.
    #[error("vNIC {name}: {error}")]
    Vnic {
        /// The vNIC.
        name: String,
        /// The transport's sentence.
        error: vnic::vfio_user::BindError,
    },
    /// A vNIC's interface cannot be opened.
    #[error("vNIC {name}: {error}")]
    Netdev {
        /// The vNIC.
        name: String,
        /// The driver's sentence.
        error: uplink::OpenError,
    },
    /// An uplink cannot be opened.
    #[error("uplink {name}: {error}")]
    Uplink {
        /// The uplink.
        name: String,
        /// The driver's sentence.
        error: uplink::OpenError,
    },
    /// The control socket cannot be served.
    #[error("control socket {}: {error}", .path.display())]
    ControlSocket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A worker cannot be started.
    #[error("cannot start a worker on CPU {cpu}: {error}; give [switch] workers CPUs that this process may use")]
    Worker {
        /// The CPU.
        cpu: usize,
        /// What the system said.
        error: std::io::Error,
    },
    /// The event loop failed.
    #[error("event loop: {0}")]
    Loop(#[from] std::io::Error),
}

/// A switch that serves until told to stop.
pub struct Runtime {
    config: Config,
    poll: Poll,
    workers: Arc<Workers>,
    threads: Vec<JoinHandle<()>>,
    uplinks: Vec<UplinkPort>,
    vnics: Vec<VnicPort>,
    policies: Policies,
    /// Where workers leave the beacons they hear, where there are uplinks.
    inbox: Option<Arc<Inbox>>,
    originator: Originator,
    /// The addresses learnt, when some port group learns.
    learned: Option<Arc<Learned>>,
    loads: LoadMeter,
    /// When the carriers are asked for next.
    next_look: Duration,
    /// Cards whose sockets held more than one batch of messages.
    unfinished: Vec<usize>,
    links: LinkMonitor,
    api: ApiServer,
    signals: signal_hook_mio::v1_0::Signals,
    started: Instant,
    sample: Sample,
    stop: bool,
}

/// Busy shares of the workers over the last whole sample.
struct Sample {
    taken: Instant,
    busy: Vec<Duration>,
    percent: Vec<f64>,
    turns: Vec<u64>,
}

/// Serves `config` until SIGTERM or SIGINT. `ready` is called once, when every socket is served.
///
/// # Errors
/// [`RunError`], one sentence.
pub fn run(config: Config, ready: impl FnOnce()) -> Result<(), RunError> {
    let mut runtime = Runtime::start(config)?;
    ready();
    let result = runtime.serve();
    runtime.finish();
    result
}

impl Runtime {
    /// Opens uplinks, binds sockets, starts workers.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn start(config: Config) -> Result<Runtime, RunError> {
        let dir = &config.switch.socket_dir.value;
        std::fs::create_dir_all(dir).map_err(|error| RunError::SocketDir { path: dir.clone(), error })?;
        let poll = Poll::new()?;
        let mut signals =
            signal_hook_mio::v1_0::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
        poll.registry().register(&mut signals, events::SIGNALS, mio::Interest::READABLE)?;
        let workers = Workers::new(config.switch.workers.len(), Snapshot::new(Vec::new(), config.switch.mtu));
        let links = LinkMonitor::open()?;
        let api = ApiServer::bind(&config.control_socket())
            .map_err(|error| RunError::ControlSocket { path: config.control_socket(), error })?;
        let uplinks = ports::open_uplinks(&config, &workers)?;
        let vnics = ports::bind_vnics(&config, &workers, uplinks.len())?;
        let waker = mio::Waker::new(poll.registry(), events::BEACONS)?;
        let wake = move || {
            // A waker that cannot wake costs a delay: beacons are looked for at their times anyway.
            let _ = waker.wake();
        };
        let policies = policies(&config)?;
        // Also where no team asks for beacons: other switches' are for no guest.
        let inbox = (!config.uplinks.is_empty()).then(|| Arc::new(Inbox::new(config.beacon.ethertype, wake)));
        let count = config.switch.workers.len();
        let learned = config.portgroups.iter().any(|g| g.security.learning).then(|| Arc::new(Learned::new()));
        let mut runtime = Runtime {
            config,
            poll,
            workers,
            threads: Vec::new(),
            uplinks,
            vnics,
            policies,
            inbox,
            originator: Originator::new()?,
            learned,
            loads: LoadMeter::default(),
            next_look: Duration::ZERO,
            unfinished: Vec::new(),
            links,
            api,
            signals,
            started: Instant::now(),
            sample: Sample {
                taken: Instant::now(),
                busy: vec![Duration::ZERO; count],
                percent: vec![0.0; count],
                turns: vec![u64::MAX; count],
            },
            stop: false,
        };
        runtime.guard_workers();
        runtime.register()?;
        let now = runtime.now();
        runtime.feed_links(now);
        runtime.publish(now);
        runtime.start_workers()?;
        Ok(runtime)
    }

    fn start_workers(&mut self) -> Result<(), RunError> {
        let idle = if self.config.switch.idle == crate::config::Idle::Spin { Idle::Spin } else { Idle::Adaptive };
        for (index, cpu) in self.config.switch.workers.iter().copied().enumerate() {
            let thread = self.workers.spawn(index, cpu, idle).map_err(|error| RunError::Worker { cpu, error })?;
            self.threads.push(thread);
        }
        tracing::info!(
            "switch {} serves {} vNICs and {} uplinks on CPUs {:?}",
            self.config.switch.name,
            self.vnics.len(),
            self.uplinks.len(),
            self.config.switch.workers
        );
        Ok(())
    }

    fn serve(&mut self) -> Result<(), RunError> {
        let mut events = Events::with_capacity(256);
        while !self.stop {
            match self.poll.poll(&mut events, Some(self.patience())) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.dispatch(event.token());
            }
            for index in std::mem::take(&mut self.unfinished) {
                self.vnic_ready(index);
            }
            self.housekeeping();
        }
        Ok(())
    }

    /// Time since the switch's start: what the policies count in.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long the loop may wait for events.
    fn patience(&self) -> Duration {
        if !self.unfinished.is_empty() {
            return Duration::ZERO;
        }
        let due = self.policies.next_due().map_or(SAMPLE, |due| due.saturating_sub(self.now()));
        // mio waits in whole milliseconds and rounds up; a beacon a millisecond late is within its tolerance.
        let none = self.uplinks.is_empty() && self.vnics.iter().all(|v| v.attachment.device().is_none());
        let look = if none { SAMPLE } else { CARRIER_LOOK };
        due.min(look)
    }

    fn housekeeping(&mut self) {
        let now = self.now();
        let snapshot = self.workers.snapshot();
        if let Some(inbox) = &self.inbox {
            let policies = &mut self.policies;
            inbox.drain(|h| policies.hear(h.uplink.0, h.vlan, &h.bytes, h.at.saturating_duration_since(self.started)));
        }
        let originator = &self.originator;
        let mut changed = self.policies.advance(now, |u| arrivals(&snapshot, u), &mut |uplink, vlan, frame| {
            let tag = (vlan != 0).then(|| Tag::new(vlan, 0));
            originator.send(&snapshot, PortId(uplink), frame, tag);
        });
        changed |= self.balance(&snapshot, now);
        if changed || self.guests_changed() {
            self.publish(now);
        }
        self.look_at_carriers(now);
        self.take_sample();
    }

    /// Asks how the uplinks' carriers are; the answers come as link events.
    fn look_at_carriers(&mut self, now: Duration) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + CARRIER_LOOK;
        self.vnics.iter_mut().for_each(|v| v.attachment.look());
        let netdevs = self.vnics.iter().filter_map(|v| Some((&v.name, v.attachment.device()?)));
        for (name, device) in self.uplinks.iter().map(|u| (&u.name, u.control.device())).chain(netdevs) {
            if let Err(error) = self.links.ask(device) {
                tracing::debug!("{name}: the carrier of {device} cannot be asked for: {error}");
            }
        }
    }

    /// Moves ports away from uplinks that are too busy, where the `load` policy asks for it.
    fn balance(&mut self, snapshot: &Snapshot, now: Duration) -> bool {
        if !self.policies.teams().iter().any(|t| t.wants_loads(now)) {
            return false;
        }
        let devices = &self.uplinks;
        let capacity = |n: u16| devices.get(usize::from(n)).map_or(0, |u| load::speed(u.control.device()));
        let mut loads = self.loads.measure(snapshot, now, capacity);
        self.policies.balance(&mut loads, now)
    }

    fn take_sample(&mut self) {
        let elapsed = self.sample.taken.elapsed();
        if elapsed < SAMPLE {
            return;
        }
        self.age_learned();
        let mut stuck = false;
        for index in 0..self.sample.busy.len() {
            let (busy, turns) = self.workers.load(index);
            let before = std::mem::replace(&mut self.sample.busy[index], busy);
            self.sample.percent[index] = 100.0 * (busy - before).as_secs_f64() / elapsed.as_secs_f64();
            stuck |= std::mem::replace(&mut self.sample.turns[index], turns) == turns;
        }
        if stuck {
            self.free_workers();
        }
        self.sample.taken = Instant::now();
    }

    /// Forgets addresses nobody has sent from for long, a part of the table each sample: all of it in about two minutes.
    fn age_learned(&mut self) {
        let now = self.started.elapsed();
        let seconds = Seconds(now.as_secs() as u32);
        self.workers.set_clock(seconds);
        if let Some(learned) = &self.learned {
            let part = (now.as_millis() / SAMPLE.as_millis()) as usize * 2;
            learned.sweep(seconds, part % LEARNED_PARTS);
            learned.sweep(seconds, (part + 1) % LEARNED_PARTS);
        }
    }

    /// The control thread must not wait for a worker that a VMM holds up: it is the one to free it.
    fn guard_workers(&self) {
        let lines: Vec<_> = self.vnics.iter().map(|v| (v.name.clone(), v.interrupts.clone())).collect();
        self.workers.grace().on_stall(move || {
            for (name, interrupts) in &lines {
                if interrupts.unblock() {
                    tracing::warn!("vNIC {name}: its VMM made an interrupt eventfd block; a worker was freed from it");
                }
            }
        });
    }

    /// A worker has not ended a turn for a whole sample: it was not scheduled, or a VMM holds it up.
    fn free_workers(&mut self) {
        for vnic in &mut self.vnics {
            vnic.attachment.free_worker();
        }
    }

    /// Drains: workers end their turn, every frame they took is accounted for, sockets go away.
    fn finish(&mut self) {
        self.workers.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic; this is a bug in the switch");
            }
        }
        let (mut frames_in, mut frames_out, mut drops) = (0, 0, 0);
        for port in self.workers.snapshot().ports() {
            let totals = port.counters.totals();
            frames_in += totals.in_frames;
            frames_out += totals.out_frames;
            drops += totals.in_drops.iter().chain(&totals.out_drops).sum::<u64>();
        }
        tracing::info!(
            "switch {} stops: {frames_in} frames in, {frames_out} out, {drops} dropped by name",
            self.config.switch.name
        );
    }
}

/// Frames an uplink took in that are not of this switch's making: neither beacons nor reflections of what its
/// guests sent.
fn arrivals(snapshot: &Snapshot, uplink: u16) -> u64 {
    let Some(port) = snapshot.port(PortId(uplink)) else { return 0 };
    let totals = port.counters.totals();
    totals.in_frames.saturating_sub(totals.drops(DropReason::Beacon) + totals.drops(DropReason::Reflected))
}

fn policies(config: &Config) -> std::io::Result<Policies> {
    let mut random = [0u8; 56];
    let got = rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
    if got != random.len() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let seed = Seed::new(&config.switch.name, &machine, &random);
    Policies::new(config.clone(), &seed)
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e.to_string()))
}
