//! Interfaces that come, go and change, as the kernel tells it (rtnetlink(7)).
//!
//! A [`LinkMonitor`] asks once for all interfaces and then hears of each change. When changes come faster than
//! they are read, the kernel drops some and says so; the monitor then asks for all of them again, and tells of
//! those that went unseen too.

mod request;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkLayerType};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use wire::Mac;

pub use request::{has_address, query, set_up};

/// Multicast group of interface changes (`RTNLGRP_LINK`).
const GROUP_LINK: u32 = 1;
/// Message types (`linux/rtnetlink.h`).
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// Attribute types (`linux/if_link.h`).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
/// Inside `IFLA_LINKINFO`.
const IFLA_INFO_KIND: u16 = 1;
/// Bytes of `struct ifinfomsg`, which the attributes follow.
const IFINFOMSG: usize = 16;
/// Room for one datagram: the kernel fills at most 32 KiB of a dump at once.
const BUFFER: usize = 64 << 10;

/// What the kernel says of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEvent {
    /// The interface's number, never given twice.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// False when it was deleted or moved to another namespace.
    pub exists: bool,
    /// True when it is set up (`IFF_UP`), with or without a cable.
    pub admin_up: bool,
    /// True when it can carry frames: set up, carrier there, operational.
    pub up: bool,
    /// Payload size in bytes.
    pub mtu: u32,
    /// Its address; zero when it has none of six bytes.
    pub mac: Mac,
    /// True when its frames are Ethernet frames.
    pub ethernet: bool,
    /// What kind of software it is (`veth`, `tun`, `bridge`, `vlan`); empty for a card with a driver.
    pub kind: String,
    /// True when it is part of another interface (a bridge's port, a bond's member).
    pub enslaved: bool,
}

/// A netlink socket that tells of interfaces. For one thread.
pub struct LinkMonitor {
    socket: Socket,
    buffer: Vec<u8>,
    known: HashMap<u32, LinkEvent>,
    /// The interfaces seen so far by the dump that is under way.
    dump: Option<HashSet<u32>>,
    /// Changes were lost: dump again when this dump is done.
    again: bool,
    sequence: u32,
}

impl LinkMonitor {
    /// Opens the socket in the calling thread's network namespace and asks for all interfaces: the first
    /// [`LinkMonitor::events`] tell of each.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn open() -> io::Result<LinkMonitor> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, 1 << (GROUP_LINK - 1)))?;
        let mut monitor = LinkMonitor {
            socket,
            buffer: vec![0; BUFFER],
            known: HashMap::new(),
            dump: None,
            again: false,
            sequence: 0,
        };
        monitor.start_dump()?;
        Ok(monitor)
    }

    /// The descriptor to poll for reading (it is non-blocking).
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// What happened since the last call, in order.
    pub fn events(&mut self) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        loop {
            let mut room: &mut [u8] = &mut self.buffer;
            match self.socket.recv_from(&mut room, 0) {
                // Port 0 is the kernel's.
                Ok((len, from)) if from.port_number() == 0 => {
                    let datagram = self.buffer[..len.min(BUFFER)].to_vec();
                    self.datagram(&datagram, &mut events);
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    tracing::debug!("netlink: changes were lost, asking for all interfaces again");
                    self.ask_again();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::warn!("netlink: {error}");
                    }
                    return events;
                }
            }
        }
    }

    /// Asks how the interface called `name` is; the answer is among the next [`LinkMonitor::events`], at once. The
    /// kernel tells of a lost carrier by itself too, but holds such news back for up to a second when there
    /// was other news of links shortly before (`net/core/link_watch.c`).
    ///
    /// # Errors
    /// What the system call says. A missing interface is no error and gets no answer.
    pub fn ask(&self, name: &str) -> io::Result<()> {
        request::one(&self.socket, name)
    }

    fn start_dump(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.again = false;
        request::dump(&self.socket, self.sequence)?;
        self.dump = Some(HashSet::new());
        Ok(())
    }

    /// The kernel serves one dump of a socket at a time.
    fn ask_again(&mut self) {
        self.again = true;
        if self.dump.is_none()
            && let Err(error) = self.start_dump()
        {
            tracing::warn!("netlink: cannot ask for the interfaces: {error}");
        }
    }

    fn datagram(&mut self, mut bytes: &[u8], events: &mut Vec<LinkEvent>) {
        while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
            if message.flags() & NLM_F_DUMP_INTR != 0 {
                self.again = true;
            }
            let ours = message.sequence_number() == self.sequence;
            match message.message_type() {
                kind @ (RTM_NEWLINK | RTM_DELLINK) => {
                    events.extend(parse_link(kind, message.payload()).map(|event| self.note(event)));
                }
                NLMSG_DONE | NLMSG_ERROR if ours => self.end_dump(message.message_type() == NLMSG_DONE, events),
                _ => {}
            }
            // Messages are aligned to 4 bytes.
            let step = (message.length() as usize).next_multiple_of(4);
            bytes = bytes.get(step..).unwrap_or(&[]);
        }
    }

    fn note(&mut self, event: LinkEvent) -> LinkEvent {
        if event.exists {
            self.known.insert(event.index, event.clone());
        } else {
            self.known.remove(&event.index);
        }
        if let Some(seen) = &mut self.dump {
            seen.insert(event.index);
        }
        event
    }

    fn end_dump(&mut self, whole: bool, events: &mut Vec<LinkEvent>) {
        let Some(seen) = self.dump.take() else { return };
        if whole && !self.again {
            let gone: Vec<u32> = self.known.keys().copied().filter(|index| !seen.contains(index)).collect();
            let gone = gone.into_iter().filter_map(|index| self.known.remove(&index));
            events.extend(gone.map(|last| LinkEvent { exists: false, admin_up: false, up: false, ..last }));
        }
        if self.again {
            self.ask_again();
        }
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The interface an `RTM_NEWLINK` or `RTM_DELLINK` message is about. Only what is needed is looked at, so that
/// no attribute of a newer kernel is in the way.
fn parse_link(kind: u16, payload: &[u8]) -> Option<LinkEvent> {
    let header = LinkHeader::parse(payload).ok()?;
    // A bridge tells of its ports in the same group: a deletion then means that a port left the bridge.
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let exists = kind == RTM_NEWLINK;
    let carries = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running;
    let mut event = LinkEvent {
        index: header.index,
        name: String::new(),
        exists,
        admin_up: exists && header.flags.contains(LinkFlags::Up),
        up: exists && header.flags.contains(carries),
        mtu: 0,
        mac: Mac::default(),
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        kind: String::new(),
        enslaved: false,
    };
    for attribute in NlasIterator::new(payload.get(IFINFOMSG..)?) {
        let Ok(attribute) = attribute else { break };
        let value = attribute.value();
        match attribute.kind() {
            IFLA_ADDRESS if value.len() == 6 => event.mac = Mac::read(value).unwrap_or_default(),
            IFLA_IFNAME => event.name = text(value),
            IFLA_LINKINFO => event.kind = kind_of(value),
            IFLA_MASTER => event.enslaved = value.iter().any(|b| *b != 0),
            IFLA_MTU => event.mtu = value.try_into().map(u32::from_ne_bytes).unwrap_or(0),
            _ => {}
        }
    }
    Some(event)
}

/// A string attribute, which ends at its first zero byte.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// The kind in an `IFLA_LINKINFO` attribute.
fn kind_of(nested: &[u8]) -> String {
    let mut kinds = NlasIterator::new(nested).flatten().filter(|a| a.kind() == IFLA_INFO_KIND);
    kinds.next().map(|a| text(a.value())).unwrap_or_default()
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
