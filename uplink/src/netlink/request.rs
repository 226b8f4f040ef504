//! Questions and orders to the kernel.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{BUFFER, LinkEvent, RTM_NEWLINK, parse_link};

/// Message type, and the scope of addresses that reach no further than the cable (`linux/rtnetlink.h`).
const RTM_NEWADDR: u16 = 20;
const RT_SCOPE_LINK: u8 = 253;

/// Asks for all interfaces on `socket`.
pub(super) fn dump(socket: &Socket, sequence: u32) -> io::Result<()> {
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    socket.send_to(&bytes(message, NLM_F_DUMP, sequence), &SocketAddr::new(0, 0), 0).map(drop)
}

/// Asks for the interface called `name` on `socket`; the answer bears sequence number 0, as news do.
pub(super) fn one(socket: &Socket, name: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    socket.send_to(&bytes(RouteNetlinkMessage::GetLink(link), 0, 0), &SocketAddr::new(0, 0), 0).map(drop)
}

/// What the kernel knows of the interface called `name` in this thread's network namespace.
///
/// # Errors
/// `NotFound` when there is none; otherwise what the system calls say.
pub fn query(name: &str) -> io::Result<LinkEvent> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match transact(RouteNetlinkMessage::GetLink(link), 0)? {
        Some(event) => Ok(event),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sets the interface numbered `index` up (`IFF_UP`).
///
/// # Errors
/// `PermissionDenied` without CAP_NET_ADMIN; otherwise what the system calls say.
pub fn set_up(index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    transact(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

/// True when the host has an IP address of its own on the interface numbered `index`, other than a link-local one.
///
/// # Errors
/// What the system calls say.
pub fn has_address(index: u32) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    socket.send_to(&bytes(question, NLM_F_DUMP, 1), &SocketAddr::new(0, 0), 0)?;
    let mut buffer = vec![0; BUFFER];
    let mut found = false;
    loop {
        let len = receive(&socket, &mut buffer)?;
        let mut rest = &buffer[..len];
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            match message.message_type() {
                RTM_NEWADDR => found |= is_address_of(message.payload(), index),
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return acknowledged(message.payload()).map(|()| found),
                _ => {}
            }
            rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
}

/// `struct ifaddrmsg` of `linux/if_addr.h`: family, prefix length, flags, scope, index.
fn is_address_of(payload: &[u8], index: u32) -> bool {
    payload
        .first_chunk::<8>()
        .is_some_and(|b| b[3] < RT_SCOPE_LINK && u32::from_ne_bytes([b[4], b[5], b[6], b[7]]) == index)
}

/// The next datagram from the kernel; its length.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut room: &mut [u8] = buffer;
        match socket.recv_from(&mut room, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok((len, from)) if from.port_number() == 0 => return Ok(len.min(buffer.len())),
            Ok(_) => {}
        }
    }
}

fn bytes(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Sends one request on a socket of its own and waits for the answer, which the kernel gives within the call.
fn transact(message: RouteNetlinkMessage, flags: u16) -> io::Result<Option<LinkEvent>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&bytes(message, flags, 1), &SocketAddr::new(0, 0), 0)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = receive(&socket, &mut buffer)?;
        let answer = NetlinkBuffer::new_checked(&buffer[..len])
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        return match answer.message_type() {
            RTM_NEWLINK => Ok(parse_link(RTM_NEWLINK, answer.payload())),
            NLMSG_ERROR => acknowledged(answer.payload()).map(|()| None),
            _ => continue,
        };
    }
}

/// An error message holds a negative errno, or 0 for "done".
fn acknowledged(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map_or(-libc::EINVAL, |b| i32::from_ne_bytes(*b));
    match code {
        0 => Ok(()),
        code if code == -libc::ENODEV => Err(io::ErrorKind::NotFound.into()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}
