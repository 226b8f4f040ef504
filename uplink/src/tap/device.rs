//! `/dev/net/tun`: the system calls that make a tap interface and ask how it is.
//!
//! Facts from `linux/if_tun.h` and the kernel's `Documentation/networking/tuntap.rst`; what the kernel answers when
//! something does not fit is in `drivers/net/tun.c`.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use dataplane::VNET_LEN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use sharedmem::Slice;
use wire::Mac;

use super::TapSetup;
use crate::OpenError;
use crate::netlink;

/// The device that stands for all taps.
const TUN: &str = "/dev/net/tun";
/// Frames with Ethernet headers, a [`dataplane::VnetHeader`] before each, and nothing else.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// What the interface's user may leave undone, as the kernel calls it.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// Datagrams under one UDP header, which Linux takes since 6.2.
const DATAGRAMS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// An interface's queues, and what its kernel can do.
pub(super) struct Opened {
    pub(super) queues: Vec<OwnedFd>,
    /// It takes datagrams under one UDP header.
    pub(super) uso: bool,
}

/// `struct ifreq` with what its union holds here.
#[repr(C)]
struct Request<T> {
    name: [u8; libc::IFNAMSIZ],
    value: T,
}

/// What the union of a [`Request`] may hold: plain integers, 24 bytes long.
trait RequestValue {}

/// The flags of an interface.
#[repr(C)]
struct Flags(libc::c_short, [u8; 22]);
impl RequestValue for Flags {}

/// A number of an interface.
#[repr(C)]
struct Number(libc::c_int, [u8; 20]);
impl RequestValue for Number {}

/// `struct sockaddr`: the address family (here the kind of hardware) and an address.
#[repr(C)]
struct Address(u16, [u8; 14], [u8; 8]);
impl RequestValue for Address {}

/// `device` as the kernel wants it; `None` when Linux has no such name. A `%` would have the kernel choose a name.
fn name_bytes(device: &str) -> Option<[u8; libc::IFNAMSIZ]> {
    let mut name = [0; libc::IFNAMSIZ];
    let wrong = |c: u8| c.is_ascii_whitespace() || c.is_ascii_control() || matches!(c, b'/' | b':' | b'%');
    if device.is_empty() || device.len() >= name.len() || matches!(device, "." | "..") || device.bytes().any(wrong) {
        return None;
    }
    name[..device.len()].copy_from_slice(device.as_bytes());
    Some(name)
}

fn request<T: RequestValue>(fd: &OwnedFd, code: libc::Ioctl, request: &mut Request<T>) -> io::Result<()> {
    const { assert!(size_of::<Request<T>>() == size_of::<libc::ifreq>()) };
    // SAFETY: the codes used here read and write one struct ifreq, as large as Request and with no pointers in it for
    // what RequestValue is implemented for; it outlives the call; `fd` is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), code, std::ptr::from_mut(request)) })
}

/// An ioctl with a pointer to a number, which it only reads.
fn set_number(fd: &OwnedFd, code: libc::Ioctl, number: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ and TUNSETSNDBUF read one int, which outlives the call; `fd` is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), code, &raw const number) })
}

fn set_offloads(fd: &OwnedFd, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number and no pointer; `fd` is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The interface `device` with as many queues as asked for: made, or taken where it exists and nobody uses it.
pub(super) fn open(device: &str, setup: &TapSetup) -> Result<Opened, OpenError> {
    let name = name_bytes(device).ok_or_else(|| OpenError::BadName { device: device.to_owned() })?;
    let failed = |error| OpenError::System { device: device.to_owned(), error };
    let before = netlink::query(device).ok();
    if before.as_ref().is_some_and(|link| link.kind != "tun" || !link.ethernet) {
        return Err(OpenError::NotTap { device: device.to_owned() });
    }
    let (first, flags) = attach_first(device, name, setup.queues)?;
    let mut state = Request { name, value: Flags(0, [0; 22]) };
    request(&first, libc::TUNGETIFF, &mut state).map_err(failed)?;
    let kept = libc::c_int::from(state.value.0) & libc::IFF_PERSIST != 0;
    if before.is_some() && !kept {
        // It goes when its last user does, and it was there before us: it has another.
        return Err(OpenError::Busy { device: device.to_owned() });
    }
    let mut queues = vec![first];
    while queues.len() < setup.queues {
        let next = open_tun(device)?;
        attach(&next, name, flags).map_err(|error| attach_error(device, error))?;
        queues.push(next);
    }
    let uso = configure(&queues[0], name, setup, kept).map_err(failed)?;
    Ok(Opened { queues, uso })
}

/// The first queue, and the flags with which the interface gives more.
fn attach_first(device: &str, name: [u8; libc::IFNAMSIZ], queues: usize) -> Result<(OwnedFd, libc::c_int), OpenError> {
    let fd = open_tun(device)?;
    let many = FLAGS | libc::IFF_MULTI_QUEUE;
    let Err(error) = attach(&fd, name, many) else { return Ok((fd, many)) };
    // One that was made with a single queue takes no request for several.
    if error.raw_os_error() != Some(libc::EINVAL) {
        return Err(attach_error(device, error));
    }
    if queues > 1 {
        return Err(OpenError::OneQueue { device: device.to_owned() });
    }
    attach(&fd, name, FLAGS).map_err(|error| attach_error(device, error))?;
    Ok((fd, FLAGS))
}

fn open_tun(device: &str) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(TUN, flags, Mode::empty()).map_err(|error| open_error(device, error.into()))
}

fn attach(fd: &OwnedFd, name: [u8; libc::IFNAMSIZ], flags: libc::c_int) -> io::Result<()> {
    request(fd, libc::TUNSETIFF, &mut Request { name, value: Flags(flags as libc::c_short, [0; 22]) })
}

/// Why `/dev/net/tun` could not be opened.
fn open_error(device: &str, error: io::Error) -> OpenError {
    let device = device.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => OpenError::NoTun { device },
        Some(libc::EACCES | libc::EPERM) => OpenError::TapPermission { device },
        _ => OpenError::System { device, error },
    }
}

/// Why the interface could not be made or taken.
fn attach_error(device: &str, error: io::Error) -> OpenError {
    let device = device.to_owned();
    match error.raw_os_error() {
        Some(libc::EBUSY) => OpenError::Busy { device },
        Some(libc::EACCES | libc::EPERM) => OpenError::TapPermission { device },
        _ => OpenError::System { device, error },
    }
}

/// Sets up what was attached. An interface that existed keeps its MTU; its address becomes that of the port, as the
/// card of a VM has it. True when it takes datagrams under one UDP header.
fn configure(fd: &OwnedFd, name: [u8; libc::IFNAMSIZ], setup: &TapSetup, kept: bool) -> io::Result<bool> {
    set_number(fd, libc::TUNSETVNETHDRSZ, VNET_LEN as libc::c_int)?;
    // What waits at a slow receiver is the receiver's affair, as on a wire.
    set_number(fd, libc::TUNSETSNDBUF, libc::c_int::MAX)?;
    let uso = set_offloads(fd, OFFLOADS | DATAGRAMS).is_ok();
    if !uso {
        set_offloads(fd, OFFLOADS)?;
    }
    set_address(fd, name, setup.mac)?;
    if kept {
        return Ok(uso);
    }
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut mtu = Request { name, value: Number(libc::c_int::from(setup.mtu), [0; 20]) };
    request(&socket, libc::SIOCSIFMTU as libc::Ioctl, &mut mtu)?;
    Ok(uso)
}

fn set_address(fd: &OwnedFd, name: [u8; libc::IFNAMSIZ], mac: Mac) -> io::Result<()> {
    let mut bytes = [0; 14];
    bytes[..6].copy_from_slice(&mac.0);
    let mut address = Request { name, value: Address(libc::ARPHRD_ETHER, bytes, [0; 8]) };
    request(fd, libc::SIOCSIFHWADDR as libc::Ioctl, &mut address)
}

/// How an attached interface is, wherever it has been moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Its user has set it up.
    Up,
    /// It exists.
    Down,
    /// It was deleted.
    Gone,
}

/// Asks the descriptor: it is writable while the interface is up, and in error when the interface is gone. `None`
/// when the question could not be asked.
pub(super) fn condition(fd: BorrowedFd<'_>) -> Option<Condition> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()?;
    let answer = fds[0].revents();
    Some(if answer.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
        Condition::Gone
    } else if answer.contains(PollFlags::OUT) {
        Condition::Up
    } else {
        Condition::Down
    })
}

/// Reads one frame with its header into `room`; the number of bytes, or the system's error number.
#[inline]
pub(super) fn read(fd: &OwnedFd, room: &Slice<'_>) -> Result<usize, i32> {
    if !room.writable() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the window is mapped and writable for its length while `room` is borrowed; the kernel writes there at
    // most, and keeps no pointer; `fd` is open.
    let got = unsafe { libc::read(fd.as_raw_fd(), room.as_ptr().cast(), room.len()) };
    usize::try_from(got).map_err(|_| last_error())
}

/// A piece of a frame on its way to the kernel: borrowed, as the call only reads it.
#[repr(transparent)]
pub(super) struct Piece<'p>(libc::iovec, PhantomData<&'p ()>);

impl<'p> Piece<'p> {
    /// Bytes of our own.
    #[inline]
    pub(super) fn own(bytes: &'p [u8]) -> Piece<'p> {
        Piece(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }, PhantomData)
    }

    /// A window onto somebody else's.
    #[inline]
    pub(super) fn window(window: &Slice<'p>) -> Piece<'p> {
        Piece(libc::iovec { iov_base: window.as_ptr().cast(), iov_len: window.len() }, PhantomData)
    }
}

/// Writes one frame, header first, that lies in `pieces`; the system's error number when it is not taken.
#[inline]
pub(super) fn write(fd: &OwnedFd, pieces: &[Piece<'_>]) -> Result<(), i32> {
    // SAFETY: Piece is laid out as iovec, and each is readable memory for as long as it is borrowed; of a page that a
    // peer has taken away the kernel says EFAULT. Nothing is written there, and no pointer kept; `fd` is open.
    let done = unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr().cast(), pieces.len() as libc::c_int) };
    if done >= 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
