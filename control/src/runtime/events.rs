//! Which event belongs to whom, and what is done about it.

use std::os::fd::RawFd;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use vnic::vfio_user::Progress;

use super::Runtime;

pub(super) const SIGNALS: Token = Token(0);
const NETLINK: Token = Token(1);
const API_LISTENER: Token = Token(2);
/// Control connections: 16..16 + MAX_CONNECTIONS.
const API_FIRST: usize = 16;
/// vNICs: three tokens each from here.
const VNIC_FIRST: usize = 1024;
const PER_VNIC: usize = 3;
const LISTENER: usize = 0;
const CONNECTION: usize = 1;
const EXTRA: usize = 2;

impl Runtime {
    /// Puts the descriptors that are there from the start into the event loop.
    pub(super) fn register(&mut self) -> std::io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&self.links.fd()), NETLINK, Interest::READABLE)?;
        registry.register(&mut SourceFd(&self.api.listener_fd()), API_LISTENER, Interest::READABLE)?;
        for (index, vnic) in self.vnics.iter().enumerate() {
            let token = Token(VNIC_FIRST + index * PER_VNIC + LISTENER);
            registry.register(&mut SourceFd(&vnic.server.listener_fd()), token, Interest::READABLE)?;
        }
        Ok(())
    }

    pub(super) fn dispatch(&mut self, token: Token) {
        match token {
            SIGNALS => {
                for signal in self.signals.pending() {
                    tracing::info!("signal {signal}: draining");
                    self.stop = true;
                }
            }
            NETLINK => self.links_ready(),
            API_LISTENER => self.api_accept(),
            Token(n) if n < VNIC_FIRST => self.api_ready(n.wrapping_sub(API_FIRST)),
            Token(n) => self.vnic_ready((n - VNIC_FIRST) / PER_VNIC, (n - VNIC_FIRST) % PER_VNIC),
        }
    }

    fn links_ready(&mut self) {
        let events = self.links.events();
        for event in &events {
            for uplink in &mut self.uplinks {
                let before = (uplink.state.connected(), uplink.state.link_up());
                uplink.control.handle(event);
                let after = (uplink.state.connected(), uplink.state.link_up());
                if before != after {
                    let word = match after {
                        (false, _) => "is gone",
                        (true, true) => "has link",
                        (true, false) => "lost its link",
                    };
                    tracing::info!("uplink {} ({}) {word}", uplink.name, event.name);
                }
            }
        }
        if self.feed_links() {
            self.publish();
        }
        self.rearm(self.links.fd(), NETLINK);
    }

    /// mio reports edges: asking again after each look reports what is still there.
    fn rearm(&self, fd: RawFd, token: Token) {
        let interest = Interest::READABLE;
        if let Err(error) = self.poll.registry().reregister(&mut SourceFd(&fd), token, interest) {
            tracing::warn!("event loop: {error}");
        }
    }

    fn vnic_ready(&mut self, index: usize, part: usize) {
        let Some(vnic) = self.vnics.get_mut(index) else { return };
        match part {
            LISTENER => vnic.server.accept_ready(),
            CONNECTION => {
                if vnic.server.connection_ready() == Progress::Closed {
                    tracing::info!("vNIC {}: the VMM is gone", vnic.name);
                }
            }
            _ => vnic.server.extra_ready(),
        }
        self.sync_vnic(index);
    }

    /// Brings the event loop in line with the descriptors a card has now.
    fn sync_vnic(&mut self, index: usize) {
        let Some(vnic) = self.vnics.get_mut(index) else { return };
        let registry = self.poll.registry();
        let base = VNIC_FIRST + index * PER_VNIC;
        let mut wanted: Vec<(RawFd, usize, Interest)> = vec![(vnic.server.listener_fd(), LISTENER, Interest::READABLE)];
        if let Some(fd) = vnic.server.connection_fd() {
            let interest =
                if vnic.server.wants_write() { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            wanted.push((fd, CONNECTION, interest));
        }
        wanted.extend(vnic.server.extra_fds().into_iter().map(|fd| (fd, EXTRA, Interest::READABLE)));
        // A descriptor that was closed has left the poll set by itself; its number may have come back for another use.
        for (fd, part, interest) in &wanted {
            let mut source = SourceFd(fd);
            let token = Token(base + part);
            let result = match registry.reregister(&mut source, token, *interest) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    registry.register(&mut source, token, *interest)
                }
                other => other,
            };
            if let Err(error) = result {
                tracing::warn!("vNIC {}: event loop: {error}", vnic.name);
            }
        }
        vnic.registered = wanted.into_iter().map(|(fd, ..)| fd).collect();
    }

    fn api_accept(&mut self) {
        while let Some((slot, fd)) = self.api.accept() {
            let token = Token(API_FIRST + slot);
            if let Err(error) =
                self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE | Interest::WRITABLE)
            {
                tracing::warn!("control socket: {error}");
                self.api.close(slot);
            }
        }
        self.rearm(self.api.listener_fd(), API_LISTENER);
    }

    fn api_ready(&mut self, slot: usize) {
        for request in self.api.read(slot) {
            let response = self.answer(&request);
            self.api.queue(slot, &response);
        }
        self.api.flush(slot);
    }
}
