//! One vNIC's vhost-user socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataplane::{Egress, Ingress};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::connection::{Connection, Ended};
use super::device::{self, CardSetup, Device};
use crate::vfio_user::{BindError, Listener, Progress};
use crate::virtio::Card;

/// Who listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The switch; the VMM connects.
    #[default]
    Server,
    /// The VMM; the switch connects, again and again until it is there.
    Client,
}

/// Messages served in one call.
const BATCH: usize = 64;
/// Connections looked at in one call.
const ACCEPTS: usize = 16;
/// How often a client tries, in nanoseconds.
const RETRY: i64 = 500_000_000;

const LISTENER: u64 = 0;
const CONNECTION: u64 = 1;
const TIMER: u64 = 2;
const CONTROL: u64 = 3;

/// How the peer comes to us.
enum Door {
    Listener(Listener),
    /// A timer that says when to knock.
    Knocking(OwnedFd),
}

/// Serves one vNIC's socket on the caller's thread, never blocking but for the workers' grace period: watch
/// [`Server::as_fd`] for readability and call [`Server::ready`], as with [`crate::vfio_user::Server`].
pub struct Server {
    watch: OwnedFd,
    door: Door,
    path: PathBuf,
    connection: Option<Connection>,
    /// The descriptor watched for the card's control queue.
    kick: Option<Arc<OwnedFd>>,
    /// A batch ended before the messages did.
    unfinished: bool,
    /// Likewise with the commands of the control queue.
    commands: bool,
    setup: Arc<CardSetup>,
    card: Arc<Card>,
    messages: u64,
}

impl Server {
    /// Binds `path` and waits for a VMM, or looks for one there.
    ///
    /// # Errors
    /// [`BindError`]: one sentence with the path and what to do.
    pub fn bind(path: &Path, setup: CardSetup, mode: Mode) -> Result<Server, BindError> {
        let system = |errno| BindError::System(path.to_path_buf(), errno);
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
        let door = match mode {
            Mode::Server => Door::Listener(Listener::bind(path)?),
            Mode::Client => Door::Knocking(timer().map_err(system)?),
        };
        let (fd, token) = match &door {
            Door::Listener(listener) => (listener.as_fd(), LISTENER),
            Door::Knocking(timer) => (timer.as_fd(), TIMER),
        };
        epoll::add(&watch, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN).map_err(system)?;
        let card = device::card(&setup);
        let (setup, path) = (Arc::new(setup), path.to_path_buf());
        Ok(Server {
            watch,
            door,
            path,
            connection: None,
            kick: None,
            unfinished: false,
            commands: false,
            setup,
            card,
            messages: 0,
        })
    }

    /// The transmit queues; they stay valid across connections.
    pub fn ingress(&mut self) -> Vec<Box<dyn Ingress>> {
        device::ingress(&self.card, self.setup.pairs)
    }

    /// The receive path; any number of times.
    pub fn egress(&self) -> Arc<dyn Egress> {
        device::egress(&self.card)
    }

    /// Serves what is there: a bounded number of connections and messages.
    pub fn ready(&mut self) -> Progress {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(4);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Err(errno) = epoll::wait(&self.watch, spare_capacity(&mut events), Some(&now)) {
            return if errno == Errno::INTR { Progress::More } else { Progress::Idle };
        }
        let happened = |token| events.iter().any(|e| e.data.u64() == token);
        let mut more = false;
        if happened(CONNECTION) || self.unfinished {
            more |= self.serve();
        }
        if happened(CONTROL) || self.commands {
            more |= self.serve_control();
        }
        if happened(LISTENER) {
            more |= self.accept();
        }
        if happened(TIMER) {
            self.knock();
        }
        if more { Progress::More } else { Progress::Idle }
    }

    /// Serves messages; true when the batch ended before they did.
    fn serve(&mut self) -> bool {
        self.unfinished = self.serve_batch();
        self.watch_kick();
        self.unfinished
    }

    /// Carries out commands of the control queue; true when a batch ended before they did.
    fn serve_control(&mut self) -> bool {
        self.commands =
            self.connection.as_ref().is_some_and(|connection| connection.with_device(Device::serve_control));
        self.commands
    }

    /// Watches the control queue's descriptor, which the last messages may have changed; and looks at the queue, whose
    /// driver need not have waited.
    fn watch_kick(&mut self) {
        let kick = self.connection.as_ref().and_then(|c| c.with_device(|device| device.control_kick().cloned()));
        let same = match (&kick, &self.kick) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if !same {
            if let Some(old) = self.kick.take() {
                let _ = epoll::delete(&self.watch, &old);
            }
            if let Some(new) = kick {
                // By the edge: it is never read, so whatever its flags are nothing can wait.
                let (flags, data) = (epoll::EventFlags::IN | epoll::EventFlags::ET, epoll::EventData::new_u64(CONTROL));
                // What cannot be watched is looked at with every message.
                let _ = epoll::add(&self.watch, &new, data, flags);
                self.kick = Some(new);
            }
        }
        self.serve_control();
    }

    fn serve_batch(&mut self) -> bool {
        for _ in 0..BATCH {
            let Some(connection) = self.connection.as_mut() else { return false };
            match connection.serve() {
                Ok(true) => self.messages += 1,
                Ok(false) => return false,
                Err(ended) => {
                    self.disconnect(&ended);
                    return false;
                }
            }
        }
        true
    }

    fn accept(&mut self) -> bool {
        for _ in 0..ACCEPTS {
            let Door::Listener(listener) = &self.door else { return false };
            let fd = match listener.accept() {
                Ok(Some(fd)) => fd,
                Ok(None) => return false,
                Err(errno) => {
                    tracing::error!("vNIC {}: a VMM could not be let in: {errno}", self.setup.name);
                    return false;
                }
            };
            // A VMM that was killed may be followed by its successor before we have seen the end of it.
            self.serve();
            if self.connection.is_some() {
                tracing::warn!(
                    "vNIC {}: a second VMM on {} was turned away: one is connected, and a vNIC serves one at a time",
                    self.setup.name,
                    self.path.display()
                );
                continue;
            }
            self.take_in(fd);
        }
        true
    }

    /// Looks for the VMM's socket, if there is no VMM.
    fn knock(&mut self) {
        if let Door::Knocking(timer) = &self.door {
            let _ = rustix::io::read(timer, &mut [0u8; 8]);
        }
        if self.connection.is_some() {
            return;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(fd) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return };
        let Ok(address) = SocketAddrUnix::new(&self.path) else { return };
        // Nobody there, or too many before us: tried again in a moment.
        if connect(&fd, &address).is_ok() {
            self.take_in(fd);
        }
    }

    fn take_in(&mut self, fd: OwnedFd) {
        let device = Device::new(self.setup.clone(), self.card.clone());
        let made = Connection::new(UnixStream::from(fd), device).and_then(|connection| {
            // By the edge: part of a message left in the socket must not keep the control thread busy.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(CONNECTION);
            epoll::add(&self.watch, &connection, data, flags)?;
            Ok(connection)
        });
        match made {
            Ok(connection) => {
                tracing::info!("vNIC {}: a VMM connected", self.setup.name);
                self.setup.state.set_connected(true);
                self.connection = Some(connection);
            }
            Err(error) => tracing::error!("vNIC {}: a VMM could not be let in: {error}", self.setup.name),
        }
    }

    fn disconnect(&mut self, why: &Ended) {
        if why.ordinary() {
            tracing::info!("vNIC {}: the VMM has gone", self.setup.name);
        } else {
            tracing::warn!("vNIC {}: the VMM was disconnected: {why}", self.setup.name);
        }
        if let Some(connection) = self.connection.take() {
            let _ = epoll::delete(&self.watch, &connection);
            self.setup.state.set_connected(false);
            connection.with_device(Device::stop);
        }
    }

    /// Frees a worker that this card's VMM holds up, and cuts that VMM off. True when it was to blame.
    pub fn free_worker(&mut self) -> bool {
        let blamed = self.connection.is_some() && self.setup.interrupts.unblock();
        if blamed {
            self.disconnect(&Ended::BlockedWorker);
        }
        blamed
    }

    /// True while a VMM is there.
    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Messages served so far, over all connections.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Port name.
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn timer() -> Result<OwnedFd, Errno> {
    let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let (soon, often) = (Timespec { tv_sec: 0, tv_nsec: 1 }, Timespec { tv_sec: 0, tv_nsec: RETRY });
    timerfd_settime(&fd, TimerfdTimerFlags::empty(), &Itimerspec { it_value: soon, it_interval: often })?;
    Ok(fd)
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.watch.as_raw_fd()
    }
}

impl Drop for Server {
    /// Workers let go of the VMM's memory before it is unmapped.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.with_device(Device::stop);
        }
    }
}
