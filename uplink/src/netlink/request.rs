//! Questions and orders to the kernel.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{BUFFER, LinkEvent, RTM_NEWLINK, parse_link};

/// Asks for all interfaces on `socket`.
pub(super) fn dump(socket: &Socket, sequence: u32) -> io::Result<()> {
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    socket.send_to(&bytes(message, NLM_F_DUMP, sequence), &SocketAddr::new(0, 0), 0).map(drop)
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
        let mut room: &mut [u8] = &mut buffer;
        let (len, from) = match socket.recv_from(&mut room, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if from.port_number() != 0 {
            continue;
        }
        let answer = NetlinkBuffer::new_checked(&buffer[..len.min(BUFFER)])
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
