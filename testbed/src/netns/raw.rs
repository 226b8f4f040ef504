//! Raw sockets on an interface.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pnet::datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, channel, interfaces};

/// Sends and receives whole frames on one interface, promiscuously.
///
/// It also sees what the interface itself sends. A tag in a frame to send goes out as it is; of a received
/// frame the kernel takes the tag away: use a [`super::Tap`] where tags matter.
pub struct RawSocket {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
}

impl RawSocket {
    /// Opens one in the namespace of the calling thread.
    pub(super) fn open(device: &str) -> Result<RawSocket> {
        let interface = interfaces().into_iter().find(|i| i.name == device);
        let interface = interface.with_context(|| format!("no interface {device}"))?;
        let config = Config {
            read_timeout: Some(Duration::from_millis(10)),
            read_buffer_size: 1 << 17,
            write_buffer_size: 1 << 17,
            ..Config::default()
        };
        match channel(&interface, config)? {
            Channel::Ethernet(sender, receiver) => Ok(RawSocket { sender, receiver }),
            _ => bail!("{device} is no Ethernet interface"),
        }
    }

    /// Sends a frame (without FCS).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.sender.send_to(frame, None).unwrap_or_else(|| Err(io::ErrorKind::OutOfMemory.into()))
    }

    /// Waits up to `timeout` (about 10 ms at least) for a frame.
    ///
    /// # Errors
    /// What the kernel says, a link that went down for instance.
    pub fn recv(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receiver.next() {
                Ok(frame) => return Ok(Some(frame.to_vec())),
                Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Waits up to `timeout` for a frame that `wanted` says yes to; drops the others.
    ///
    /// # Errors
    /// As [`RawSocket::recv`].
    pub fn recv_where(&mut self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
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
