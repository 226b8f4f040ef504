//! Packet sockets: the system calls.

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::ring::Direction;

/// The send buffer in bytes: more than all slots of a transmit ring together, so that the ring and nothing else
/// says when it is full.
const SEND_BUFFER: usize = 256 << 20;

/// A packet socket on the interface numbered `index`, with its ring made but not mapped.
///
/// An RX socket takes frames of every protocol in promiscuous mode, except those this machine sends.
///
/// `PACKET_QDISC_BYPASS` is not used: over a veth it made no difference (485 and 491 thousand frames a second of
/// 60 bytes, 459 and 463 of 1514, without and with; medians of seven alternating runs), and where an interface
/// has a queueing discipline, that is what takes up a burst the device has no room for.
pub(super) fn open(index: u32, direction: Direction) -> io::Result<OwnedFd> {
    // Protocol 0: nothing comes in before everything is set.
    let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    set(&fd, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as libc::c_int))?;
    set(&fd, libc::PACKET_VNET_HDR, &1)?;
    match direction {
        Direction::Rx => {
            // Kernels before 4.20 lack it; the slot's packet type is looked at in any case.
            let _ = set(&fd, libc::PACKET_IGNORE_OUTGOING, &1);
            set(&fd, libc::PACKET_RX_RING, &direction.request())?;
        }
        Direction::Tx => {
            sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER))?;
            set(&fd, libc::PACKET_TX_RING, &direction.request())?;
        }
    }
    let protocol = if direction == Direction::Rx { libc::ETH_P_ALL as u16 } else { 0 };
    bind(&fd, index, protocol)?;
    if direction == Direction::Rx {
        promiscuous(&fd, index)?;
    }
    Ok(fd)
}

/// Holds the interface numbered `index` in promiscuous mode, by a socket that receives nothing.
pub(crate) fn hold_promiscuous(index: u32) -> io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    promiscuous(&fd, index)?;
    Ok(fd)
}

/// Puts the interface into promiscuous mode for as long as the socket lives: the kernel counts memberships and
/// takes this one back however the process ends.
fn promiscuous(fd: &OwnedFd, index: u32) -> io::Result<()> {
    let membership = libc::packet_mreq {
        mr_ifindex: index as libc::c_int,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(fd, libc::PACKET_ADD_MEMBERSHIP, &membership)
}

/// Frames put into the receive ring and frames dropped for want of a slot, since the last call.
pub(super) fn statistics(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `stats`, a plain structure of our own that outlives the
    // call; `fd` is open.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    };
    check(result)?;
    // The kernel counts the dropped ones among the packets too.
    Ok((u64::from(stats.tp_packets.wrapping_sub(stats.tp_drops)), u64::from(stats.tp_drops)))
}

fn bind(fd: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads size_of(sockaddr_ll) bytes of `address`, which is exactly that long and outlives
    // the call; `fd` is open.
    let result = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    check(result)
}

/// Values the kernel may be handed as an option: C structures of plain integers without padding that matters.
trait OptionValue {}
impl OptionValue for libc::c_int {}
impl OptionValue for libc::tpacket_req {}
impl OptionValue for libc::packet_mreq {}

fn set<T: OptionValue>(fd: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads size_of::<T>() bytes of `value`, which outlives the call, and for these options
    // keeps no pointer to it; OptionValue is implemented for initialised plain C structures only; `fd` is open.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// True when this kernel knows `VIRTIO_NET_HDR_GSO_UDP_L4`: Linux 6.2 and later. A packet socket has no option that
/// tells; an older kernel refuses the slot when it comes to send it, which is too late.
pub(super) fn cuts_datagrams() -> bool {
    rustix::system::uname().release().to_str().is_ok_and(|release| is_at_least(release, (6, 2)))
}

/// Compares the first two numbers of a kernel's release.
fn is_at_least(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, newer) in
            [("6.2.0", true), ("6.18.44-x", true), ("10.0", true), ("6.2-rc1", true), ("7", true), ("6.1.99", false)]
        {
            assert_eq!(is_at_least(release, (6, 2)), newer, "{release}");
        }
        assert!(!is_at_least("5.15.0-91-generic", (6, 2)) && !is_at_least("", (6, 2)) && !is_at_least("6", (6, 2)));
    }
}
