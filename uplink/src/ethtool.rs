//! Offloads and queues of an interface, by the ethtool ioctl (`linux/ethtool.h`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::netlink;

const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `ETH_FLAG_RXVLAN`: the card takes VLAN tags out of frames.
const RXVLAN: u32 = 1 << 8;

/// `struct ifreq` with a pointer in its union.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut libc::c_void,
    rest: [u8; 16],
}

/// Structures the kernel reads and fills: plain integers that begin with the command.
trait Command {}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}
impl Command for Value {}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}
impl Command for Channels {}

fn call<T: Command>(device: &str, command: &mut T) -> io::Result<()> {
    let fd: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: std::ptr::from_mut(command).cast(), rest: [0; 16] };
    // The last byte stays zero.
    if device.len() >= request.name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: SIOCETHTOOL reads and writes one struct ifreq (40 bytes), as large as Request, and through its
    // pointer the structure that the command in its first word stands for, which is what implements Command; both
    // outlive the call; `fd` is open.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get(device: &str, cmd: u32) -> io::Result<u32> {
    let mut value = Value { cmd, data: 0 };
    call(device, &mut value).map(|()| value.data)
}

fn set(device: &str, cmd: u32, data: u32) -> io::Result<()> {
    call(device, &mut Value { cmd, data })
}

/// Receive queues of `device`; 1 where the driver does not tell.
pub(crate) fn rx_queues(device: &str) -> usize {
    let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
    match call(device, &mut channels) {
        Ok(()) => (channels.combined.saturating_add(channels.rx) as usize).max(1),
        Err(_) => 1,
    }
}

/// Offloads switched off for as long as this lives. After a kill they stay off, which costs the interface speed and
/// nothing else; `ethtool -K DEVICE rxvlan on gro on` is the mend.
pub(crate) struct Suspended {
    device: String,
    index: u32,
    rxvlan: bool,
    gro: bool,
}

impl Suspended {
    /// Nothing switched off yet.
    pub(crate) fn new(device: &str, index: u32) -> Suspended {
        Suspended { device: device.to_owned(), index, rxvlan: false, gro: false }
    }

    /// Has the card leave VLAN tags in the frames: XDP does not see what was taken out.
    pub(crate) fn rxvlan(&mut self) -> io::Result<()> {
        let Ok(flags) = get(&self.device, ETHTOOL_GFLAGS) else { return Ok(()) };
        if flags & RXVLAN != 0 {
            set(&self.device, ETHTOOL_SFLAGS, flags & !RXVLAN)?;
            self.rxvlan = true;
        }
        Ok(())
    }

    /// Has the kernel leave received frames as they are: generic XDP comes after the stage that joins them.
    pub(crate) fn gro(&mut self) -> io::Result<()> {
        if get(&self.device, ETHTOOL_GGRO).is_ok_and(|on| on != 0) {
            set(&self.device, ETHTOOL_SGRO, 0)?;
            self.gro = true;
        }
        Ok(())
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        let ours = || netlink::query(&self.device).is_ok_and(|link| link.index == self.index);
        if !(self.rxvlan || self.gro) || !ours() {
            return;
        }
        // Errors: the interface went away under us, and its settings with it.
        if self.rxvlan
            && let Ok(flags) = get(&self.device, ETHTOOL_GFLAGS)
        {
            let _ = set(&self.device, ETHTOOL_SFLAGS, flags | RXVLAN);
        }
        if self.gro {
            let _ = set(&self.device, ETHTOOL_SGRO, 1);
        }
    }
}
