//! Which event belongs to whom, and what is done about it.

use std::os::fd::RawFd;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use vnic::vfio_user::Progress;

use super::Runtime;

pub(super) const SIGNALS: Token = Token(0);
const NETLINK: Token = Token(1);
const API_LISTENER: Token = Token(2);
/// Workers heard beacons.
pub(super) const BEACONS: Token = Token(3);
/// Control connections have tokens from here.
const API_FIRST: usize = 16;
/// vNICs have one token each from here.
const VNIC_FIRST: usize = 1024;

impl Runtime {
    /// Puts the descriptors that are there from the start into the event loop.
    pub(super) fn register(&mut self) -> std::io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&self.links.fd()), NETLINK, Interest::READABLE)?;
        registry.register(&mut SourceFd(&self.api.listener_fd()), API_LISTENER, Interest::READABLE)?;
        for (index, vnic) in self.vnics.iter().enumerate() {
            let token = Token(VNIC_FIRST + index);
            if let Some(fd) = vnic.attachment.fd() {
                registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            }
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
            // What waits is read each time around the loop.
            BEACONS => {}
            API_LISTENER => self.api_accept(),
            Token(n) if n < VNIC_FIRST => self.api_ready(n.wrapping_sub(API_FIRST)),
            Token(n) => self.vnic_ready(n - VNIC_FIRST),
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
        for vnic in &mut self.vnics {
            events.iter().for_each(|event| vnic.attachment.handle(event));
        }
        let now = self.now();
        if self.feed_links(now) {
            self.publish(now);
        }
        self.rearm(self.links.fd(), NETLINK);
    }

    /// mio reports edges: asking again after each look reports what is still there.
    fn rearm(&self, fd: RawFd, token: Token) {
        if let Err(error) = self.poll.registry().reregister(&mut SourceFd(&fd), token, Interest::READABLE) {
            tracing::error!("event loop: {error}");
        }
    }

    /// Serves a card's socket; when it has more to do it is looked at again after the others.
    pub(super) fn vnic_ready(&mut self, index: usize) {
        let Some(vnic) = self.vnics.get_mut(index) else { return };
        match vnic.attachment.ready() {
            Progress::More => self.unfinished.push(index),
            Progress::Idle => {
                if let Some(fd) = vnic.attachment.fd() {
                    self.rearm(fd, Token(VNIC_FIRST + index));
                }
            }
        }
    }

    fn api_accept(&mut self) {
        while let Some((slot, fd)) = self.api.accept() {
            let token = Token(API_FIRST + slot);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), token, interest) {
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
