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
mod events;
mod ports;
mod publish;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::{Idle, Snapshot, Workers};
use mio::{Events, Poll};
use teaming::Team;
use uplink::netlink::LinkMonitor;

use self::api_server::ApiServer;
use self::ports::{UplinkPort, VnicPort};
use crate::config::Config;

/// How often busy shares are sampled and slow housekeeping is done.
const SAMPLE: Duration = Duration::from_millis(500);

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
    /// One team per port group, in the configuration's order.
    teams: Vec<Team>,
    /// The team that port groups without overrides have; shown, not used for placing ports.
    default_team: Team,
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
        let teams = config.portgroups.iter().map(|g| publish::team(&config, &g.team)).collect();
        let default_team = publish::team(&config, &config.team);
        let count = config.switch.workers.len();
        let mut runtime = Runtime {
            config,
            poll,
            workers,
            threads: Vec::new(),
            uplinks,
            vnics,
            teams,
            default_team,
            unfinished: Vec::new(),
            links,
            api,
            signals,
            started: Instant::now(),
            sample: Sample { taken: Instant::now(), busy: vec![Duration::ZERO; count], percent: vec![0.0; count], turns: vec![u64::MAX; count] },
            stop: false,
        };
        runtime.guard_workers();
        runtime.register()?;
        runtime.feed_links();
        runtime.publish();
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
            let timeout = if self.unfinished.is_empty() { SAMPLE } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
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

    fn housekeeping(&mut self) {
        if self.chosen_addresses_changed() {
            self.publish();
        }
        let elapsed = self.sample.taken.elapsed();
        if elapsed < SAMPLE {
            return;
        }
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
            vnic.server.free_worker();
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
