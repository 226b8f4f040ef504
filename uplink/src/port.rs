//! The control half of an uplink.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use dataplane::{Egress, Grace, Ingress, PortState};

use crate::driver::{self, Driver};
use crate::life::{Backend, Counts, Life, Receiver, Shared, Transmitter};
use crate::netlink::{self, LinkEvent};

/// Why an uplink could not be opened: one sentence, with the mend where there is one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such interface.
    #[error("there is no network interface \"{device}\"; `ip link` shows those that are there")]
    NoInterface {
        /// The name asked for.
        device: String,
    },
    /// The interface carries something else than Ethernet frames.
    #[error("network interface \"{device}\" is not Ethernet; give an uplink an Ethernet interface")]
    NotEthernet {
        /// The interface.
        device: String,
    },
    /// The process may not open packet sockets.
    #[error(
        "no permission to open network interface \"{device}\"; run as root or give the program CAP_NET_RAW and CAP_NET_ADMIN"
    )]
    Permission {
        /// The interface.
        device: String,
    },
    /// The interface takes no AF_XDP sockets, which were asked for by name.
    #[error("network interface \"{device}\" takes no AF_XDP socket: {reason}; use driver = \"auto\" or \"af_packet\"")]
    NoXdp {
        /// The interface.
        device: String,
        /// Why not.
        reason: String,
    },
    /// There is no such thing as a tap here.
    #[error(
        "there is no /dev/net/tun to make tap interface \"{device}\" with; load it (`modprobe tun`), and give it to the \
         container if the switch runs in one"
    )]
    NoTun {
        /// The interface.
        device: String,
    },
    /// The process may not make taps.
    #[error(
        "no permission to make tap interface \"{device}\"; run as root or give the program CAP_NET_ADMIN and access \
         to /dev/net/tun"
    )]
    TapPermission {
        /// The interface.
        device: String,
    },
    /// No interface can be called so.
    #[error("\"{device}\" is no name of an interface; use at most 15 letters, digits and signs other than / : %")]
    BadName {
        /// The name asked for.
        device: String,
    },
    /// Another program holds the interface.
    #[error("tap interface \"{device}\" is in use by another program; end that, or choose another name")]
    Busy {
        /// The interface.
        device: String,
    },
    /// The interface exists and is something else.
    #[error("network interface \"{device}\" exists and is no tap; delete it, or choose another name")]
    NotTap {
        /// The interface.
        device: String,
    },
    /// The interface was made with one queue.
    #[error(
        "tap interface \"{device}\" has one queue; make it by `ip tuntap add {device} mode tap multi_queue`, or ask \
         for one"
    )]
    OneQueue {
        /// The interface.
        device: String,
    },
    /// Something else.
    #[error("cannot open network interface \"{device}\": {error}")]
    System {
        /// The interface.
        device: String,
        /// What the system said.
        error: io::Error,
    },
}

impl OpenError {
    pub(crate) fn new(device: &str, error: io::Error) -> OpenError {
        let device = device.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => OpenError::NoInterface { device },
            io::ErrorKind::PermissionDenied => OpenError::Permission { device },
            // ENODEV and ENXIO: it went away between the question and the socket.
            _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => OpenError::NoInterface { device },
            _ => OpenError::System { device, error },
        }
    }
}

/// What happened at an uplink outside the port counters, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkStats {
    /// Frames the kernel put into the receive ring (AF_PACKET), or a worker took from the rings (AF_XDP).
    pub rx_frames: u64,
    /// Frames the kernel dropped because the receive ring was full (AF_XDP: or the frame too long for its chunk).
    /// The switch never saw them.
    pub rx_kernel_drops: u64,
    /// Times the kernel left frames in the transmit ring because the device was full or down.
    pub tx_busy: u64,
    /// Frames the kernel refused to take from the transmit ring.
    pub tx_refused: u64,
    /// Frames thrown away in the transmit ring when the link or the interface went away under them.
    pub tx_stale: u64,
    /// Times the interface was opened, the first included.
    pub opened: u64,
}

/// An uplink as the control thread holds it. It stays when its interface goes, and finds it again by its name.
pub struct Uplink {
    name: String,
    device: String,
    driver: Driver,
    mtu: u16,
    grace: Grace,
    shared: Arc<Shared>,
    /// The driver and rung of the life the interface has now, or had last.
    used: &'static str,
    rung: String,
    /// Queues towards the switch, as many as the interface had when the uplink was opened.
    lanes: usize,
    queues_given: bool,
    rx_frames: AtomicU64,
    rx_kernel_drops: AtomicU64,
    tx_stale: u64,
    opened: u64,
}

impl Uplink {
    /// As [`Uplink::open_with`], by AF_PACKET.
    ///
    /// # Errors
    /// [`OpenError`], one sentence.
    pub fn open(name: &str, device: &str, state: Arc<PortState>, grace: Grace, mtu: u16) -> Result<Uplink, OpenError> {
        Uplink::open_with(name, device, Driver::AfPacket, state, grace, mtu)
    }

    /// Opens the interface `device` as uplink `name` of a switch whose payload size is `mtu` bytes, by `driver`. An
    /// interface that is down is set up, as ESX does with its NICs. `state` says from now on whether the interface
    /// exists (connected) and carries frames (link).
    ///
    /// # Errors
    /// [`OpenError`], one sentence.
    pub fn open_with(
        name: &str,
        device: &str,
        driver: Driver,
        state: Arc<PortState>,
        grace: Grace,
        mtu: u16,
    ) -> Result<Uplink, OpenError> {
        let mut uplink = Uplink {
            name: name.to_owned(),
            device: device.to_owned(),
            driver,
            mtu,
            grace,
            shared: Arc::new(Shared { life: ArcSwapOption::empty(), state, counts: Counts::default() }),
            used: "af_packet",
            rung: String::new(),
            lanes: 1,
            queues_given: false,
            rx_frames: AtomicU64::new(0),
            rx_kernel_drops: AtomicU64::new(0),
            tx_stale: 0,
            opened: 0,
        };
        uplink.shared.state.set_connected(false);
        uplink.shared.state.set_link_up(false);
        uplink.start()?;
        uplink.lanes = uplink.shared.life.load().as_ref().map_or(1, |life| life.queues().max(1));
        Ok(uplink)
    }

    /// The uplink's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The driver that moves the frames: `af_packet` or `af_xdp`. It may be another one when the interface has
    /// been away.
    pub fn driver(&self) -> &'static str {
        self.used
    }

    /// How that driver runs, and why it is no better one: `copy: zero-copy refused: Operation not supported`.
    pub fn rung(&self) -> &str {
        &self.rung
    }

    /// The queues towards the switch, one for each receive queue that the interface had when the uplink was opened;
    /// each may be polled by another worker. They stay valid while the interface comes and goes, and share its queues
    /// if it then has more. A second call gives none.
    pub fn ingress(&mut self) -> Vec<Box<dyn Ingress>> {
        if std::mem::replace(&mut self.queues_given, true) {
            return Vec::new();
        }
        let queue = |lane| Box::new(Receiver::new(self.shared.clone(), lane, self.lanes)) as Box<dyn Ingress>;
        (0..self.lanes).map(queue).collect()
    }

    /// The way out; any number of times.
    pub fn egress(&self) -> Arc<dyn Egress> {
        Arc::new(Transmitter::new(self.shared.clone()))
    }

    /// Takes note of a change of some interface. Events of others are ignored.
    pub fn handle(&mut self, event: &LinkEvent) {
        let current = self.shared.life.load_full();
        let ours = current.as_ref().is_some_and(|life| life.index == event.index);
        if event.name != self.device {
            if ours && event.exists {
                tracing::warn!("uplink {}: {} is now called {}", self.name, self.device, event.name);
                self.stop();
            }
            return;
        }
        match (current, event.exists) {
            (Some(life), true) if ours => self.changed(event, life),
            (Some(_), false) if ours => self.stop(),
            (Some(life), true) if self.is_current(&life) => {}
            (life, true) => {
                // Held on to, they would be in the way of the new ones.
                drop(life);
                self.restart();
            }
            // One that was replaced already.
            (_, false) => {}
        }
    }

    /// True when `life` belongs to the interface that now has our name: the event was an old one.
    fn is_current(&self, life: &Life) -> bool {
        netlink::query(&self.device).is_ok_and(|link| link.index == life.index)
    }

    /// What happened so far.
    pub fn stats(&self) -> UplinkStats {
        if let Some(life) = self.shared.life.load_full() {
            self.collect(&life);
        }
        let counts = &self.shared.counts;
        UplinkStats {
            rx_frames: self.rx_frames.load(Ordering::Relaxed),
            rx_kernel_drops: self.rx_kernel_drops.load(Ordering::Relaxed),
            tx_busy: counts.tx_busy.load(Ordering::Relaxed),
            tx_refused: counts.tx_refused.load(Ordering::Relaxed),
            tx_stale: self.tx_stale,
            opened: self.opened,
        }
    }

    /// The kernel counts from the last time it was asked.
    fn collect(&self, life: &Life) {
        let taken = life.take_statistics();
        self.rx_frames.fetch_add(taken.rx_frames, Ordering::Relaxed);
        self.rx_kernel_drops.fetch_add(taken.rx_drops, Ordering::Relaxed);
        self.shared.counts.tx_refused.fetch_add(taken.tx_refused, Ordering::Relaxed);
    }

    fn changed(&mut self, event: &LinkEvent, life: Arc<Life>) {
        life.set_mtu(event.mtu);
        let was_up = self.shared.state.link_up();
        // Frames from before the cut: sent now, they would tell switches where stations were then.
        let stale = event.up && !was_up && life.waiting() > 0;
        if stale || life.outgrown(event.mtu) {
            // Held on to, they would be in the way of the new ones.
            drop(life);
            return self.restart();
        }
        self.shared.state.set_link_up(event.up);
    }

    /// Opens the interface anew, whatever there was before; without success the uplink is not connected.
    fn restart(&mut self) {
        self.stop();
        match self.start() {
            Ok(()) | Err(OpenError::NoInterface { .. }) => {}
            Err(error) => tracing::warn!("uplink {}: {error}", self.name),
        }
    }

    fn start(&mut self) -> Result<(), OpenError> {
        let failed = |error| OpenError::new(&self.device, error);
        let mut link = netlink::query(&self.device).map_err(failed)?;
        if !link.ethernet {
            return Err(OpenError::NotEthernet { device: self.device.clone() });
        }
        if link.mtu < u32::from(self.mtu) {
            tracing::warn!(
                "uplink {}: {} takes {} bytes, the switch {}; longer frames are dropped as oversize",
                self.name,
                self.device,
                link.mtu,
                self.mtu
            );
        }
        let opened = driver::open(&link, self.driver)?;
        for warning in &opened.warnings {
            tracing::warn!("uplink {}: {}: {warning}", self.name, self.device);
        }
        if !link.admin_up {
            match netlink::set_up(link.index) {
                Ok(()) => link = netlink::query(&self.device).map_err(failed)?,
                Err(error) => {
                    tracing::warn!("uplink {}: {} is down and cannot be set up: {error}", self.name, self.device)
                }
            }
        }
        self.opened += 1;
        self.used = match opened.life.backend {
            Backend::Packet(_) => "af_packet",
            Backend::Xdp(_) => "af_xdp",
        };
        self.rung = opened.rung;
        self.shared.life.store(Some(opened.life));
        self.shared.state.set_connected(true);
        self.shared.state.set_link_up(link.up);
        self.grace.wake();
        Ok(())
    }

    /// Takes the rings away from the workers, waits until they have let go, and closes them here.
    fn stop(&mut self) {
        self.shared.state.set_connected(false);
        self.shared.state.set_link_up(false);
        if let Some(old) = self.shared.life.swap(None) {
            // A sleeper waits on the old socket.
            self.grace.wake();
            self.grace.wait();
            self.collect(&old);
            self.tx_stale += old.waiting();
        }
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.stop();
    }
}
