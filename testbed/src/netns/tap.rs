//! Tap interfaces: the other end of the cable is this process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Room for the greatest frame: no segments come here, the kernel makes them before.
pub(super) const MAX_FRAME: usize = 1 << 16;

/// A tap interface. Its frames are whole, tags included, checksums filled in. Gone on drop.
pub struct Tap {
    device: SyncDevice,
    name: String,
}

impl Tap {
    /// Makes one in the namespace of the calling thread; it is down.
    pub(super) fn create(name: &str, mtu: u16) -> Result<Tap> {
        let builder = DeviceBuilder::new().name(name).layer(Layer::L2).mtu(mtu).enable(false);
        let device = builder.build_sync().with_context(|| format!("making tap {name}"))?;
        device.set_nonblocking(true)?;
        Ok(Tap { device, name: name.to_owned() })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes a frame (without FCS): the interface receives it.
    ///
    /// # Errors
    /// What the kernel says; `EIO` while the interface is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.device.send(frame).map(drop)
    }

    /// Reads a frame the interface sent into `buffer`; `None` when there is none now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.device.recv(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits up to `timeout` for a frame.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv(&self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            if let Some(len) = self.try_recv(&mut buffer)? {
                buffer.truncate(len);
                return Ok(Some(buffer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits up to `timeout` for a frame that `wanted` says yes to; drops the others.
    ///
    /// # Errors
    /// As [`Tap::recv`].
    pub fn recv_where(&self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.recv(deadline.saturating_duration_since(Instant::now()))? {
                Some(frame) if wanted(&frame) => return Ok(Some(frame)),
                None => return Ok(None),
                Some(_) => {}
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
