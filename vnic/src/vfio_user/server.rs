//! The server of one vNIC: its socket, its connection, its session, behind one descriptor to watch.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::message::MessageCounters;
use super::session::{Card, Session};
use super::socket::{BindError, Connection, Ended, Listener};
use crate::device::DeviceModel;

/// Messages served in one call, so that a busy VMM does not keep the control thread from the others.
const BATCH: usize = 64;
/// Connections looked at in one call.
const ACCEPTS: usize = 16;

const LISTENER: u64 = 0;
const CONNECTION: u64 = 1;
const RESAMPLE: u64 = 2;

/// Whether [`Server::ready`] has done all there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Everything is served; call again when the descriptor is readable.
    Idle,
    /// There is more; call again after the others have had their turn, without waiting for readiness.
    More,
}

/// Serves one vNIC's socket. All of it on the caller's thread, never blocking but for the workers' grace
/// period.
///
/// Watch [`Server::as_fd`] for readability (it is an epoll instance that holds listener, connection and
/// resample eventfd, and stays the same while they come and go; edge-triggered watching is fine) and call
/// [`Server::ready`].
pub struct Server {
    // Dropped in this order: descriptors leave the epoll instance by closing it first.
    watch: OwnedFd,
    listener: Listener,
    connection: Option<Connection>,
    session: Session,
    /// Whether the connection is watched for writability.
    awaiting_room: bool,
    resample: Option<(OwnedFd, u64)>,
}

impl Server {
    /// Binds `path` and waits for a VMM.
    ///
    /// # Errors
    /// [`BindError`]: one sentence with the path and what to do.
    pub fn bind(path: &Path, card: Card) -> Result<Server, BindError> {
        let system = |errno| BindError::System(path.to_path_buf(), errno);
        let listener = Listener::bind(path)?;
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
        let (data, flags) = (epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN);
        epoll::add(&watch, &listener, data, flags).map_err(system)?;
        let session = Session::new(card);
        Ok(Server { watch, listener, connection: None, session, awaiting_room: false, resample: None })
    }

    /// Serves what is there: a bounded number of connections and messages.
    pub fn ready(&mut self) -> Progress {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(4);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Err(errno) = epoll::wait(&self.watch, spare_capacity(&mut events), Some(&now)) {
            // Interrupted at worst: the descriptor is ours.
            return if errno == Errno::INTR { Progress::More } else { Progress::Idle };
        }
        let happened = |token| events.iter().any(|e| e.data.u64() == token);
        let mut more = false;
        if happened(CONNECTION) {
            more |= self.serve();
        }
        if happened(RESAMPLE) {
            self.session.resampled();
        }
        if happened(LISTENER) {
            more |= self.accept();
        }
        if more { Progress::More } else { Progress::Idle }
    }

    /// Serves messages; true when the batch ended before they did.
    fn serve(&mut self) -> bool {
        let Some(connection) = self.connection.as_mut() else { return false };
        let session = &mut self.session;
        let mut outcome = Ok(());
        let mut left = BATCH;
        while left > 0 {
            match connection.receive() {
                Ok(Some((header, fds))) => {
                    if let Some(answer) = session.handle(&header, connection.payload(), fds) {
                        connection.push(answer);
                    }
                    left -= 1;
                }
                Ok(None) => break,
                Err(ended) => {
                    outcome = Err(ended);
                    break;
                }
            }
        }
        session.settle();
        match outcome.and_then(|()| connection.flush()).and_then(|()| self.rewatch()) {
            Ok(()) => left == 0,
            Err(ended) => {
                self.disconnect(&ended);
                false
            }
        }
    }

    /// Brings what is watched in line with what there is.
    fn rewatch(&mut self) -> Result<(), Ended> {
        if let Some(connection) = &self.connection
            && connection.backlog() != self.awaiting_room
        {
            self.awaiting_room = connection.backlog();
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, self.awaiting_room);
            epoll::modify(&self.watch, connection, epoll::EventData::new_u64(CONNECTION), flags)?;
        }
        let (fd, generation) = self.session.resample();
        if self.resample.as_ref().map(|(_, g)| *g) == fd.map(|_| generation) {
            return Ok(());
        }
        let fd =
            fd.map(OwnedFd::try_clone).transpose().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?;
        self.forget_resample();
        if let Some(fd) = fd {
            // Edge-triggered: each signal is one event, and the counter need not be read, which a VMM
            // that makes its end blocking could turn into a wait.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&self.watch, &fd, epoll::EventData::new_u64(RESAMPLE), flags)?;
            self.resample = Some((fd, generation));
        }
        Ok(())
    }

    /// Stops watching it. Closing alone would not: the VMM holds the same open file.
    fn forget_resample(&mut self) {
        if let Some((fd, _)) = self.resample.take() {
            let _ = epoll::delete(&self.watch, &fd);
        }
    }

    /// Takes in a VMM, or turns it away; true when more may be waiting.
    fn accept(&mut self) -> bool {
        for _ in 0..ACCEPTS {
            let fd = match self.listener.accept() {
                Ok(Some(fd)) => fd,
                Ok(None) => return false,
                Err(errno) => {
                    tracing::error!("vNIC {}: a VMM could not be let in: {errno}", self.session.name());
                    return false;
                }
            };
            // A VMM that was killed may be followed by its successor before we have seen the end of it.
            if self.connection.as_ref().is_some_and(Connection::hung_up) {
                self.disconnect(&Ended::Closed);
            }
            if self.connection.is_some() {
                tracing::warn!(
                    "vNIC {}: a second VMM on {} was turned away: one is connected, and a vNIC serves one at a time",
                    self.session.name(),
                    self.listener.path().display()
                );
                continue;
            }
            let connection = Connection::new(fd);
            let (data, flags) = (epoll::EventData::new_u64(CONNECTION), epoll::EventFlags::IN);
            match epoll::add(&self.watch, &connection, data, flags) {
                Ok(()) => {
                    tracing::info!("vNIC {}: a VMM connected", self.session.name());
                    self.awaiting_room = false;
                    self.connection = Some(connection);
                }
                Err(errno) => tracing::error!("vNIC {}: a VMM could not be let in: {errno}", self.session.name()),
            }
        }
        true
    }

    fn disconnect(&mut self, why: &Ended) {
        if why.ordinary() {
            tracing::info!("vNIC {}: the VMM has gone", self.session.name());
        } else {
            tracing::warn!("vNIC {}: the VMM was disconnected: {why}", self.session.name());
        }
        self.forget_resample();
        if let Some(connection) = self.connection.take() {
            let _ = epoll::delete(&self.watch, &connection);
        }
        self.awaiting_room = false;
        self.session.disconnect();
    }

    /// Frees a worker that this card's VMM holds up, see [`Interrupts::unblock`](crate::irq::Interrupts::unblock),
    /// and cuts that VMM off. True when it was to blame.
    pub fn free_worker(&mut self) -> bool {
        let blamed = self.connection.is_some() && self.session.interrupts().unblock();
        if blamed {
            self.disconnect(&Ended::BlockedWorker);
        }
        blamed
    }

    /// True while a VMM is on the socket.
    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Messages served so far, over all connections.
    pub fn messages(&self) -> &MessageCounters {
        self.session.messages()
    }

    /// The device model.
    pub fn model(&self) -> &dyn DeviceModel {
        self.session.model()
    }

    /// The device model, to be changed.
    pub fn model_mut(&mut self) -> &mut dyn DeviceModel {
        self.session.model_mut()
    }

    /// The switch changed the port's link state; tells the card.
    pub fn link_changed(&mut self) {
        self.model_mut().link_changed();
    }

    /// Port name.
    pub fn name(&self) -> &str {
        self.session.name()
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        self.listener.path()
    }
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
    /// The card stops, and workers let go of the VMM's memory before it is unmapped.
    fn drop(&mut self) {
        self.forget_resample();
        if self.connection.take().is_some() {
            self.session.disconnect();
        }
    }
}
