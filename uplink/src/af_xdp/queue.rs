//! One AF_XDP socket with its memory: one receive and one transmit queue of the interface.
//!
//! ```text
//!  UMEM: | RX frames (2048) ...            | TX frames (2048) ...              |   4 KiB each
//!        kernel --RX ring--> RxSide --fill ring--> kernel      one worker's
//!        TxSide --TX ring--> kernel --completion ring--> TxSide.free           any worker's, short lock
//! ```
//!
//! Every ring has a place for each frame that can ever be in it, so that what goes into a ring always fits.
//!
//! # Safety
//!
//! What xsk-rs asks of its callers holds by construction: a [`FrameDesc`] is a value that only ever moves between
//! the kernel's rings and the two sides of the [`Queue`] whose UMEM it is of, and a frame is touched only while its
//! descriptor is here.

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sharedmem::Region;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{FrameDesc, Socket, Umem};

use super::rx::RxSide;
use super::tx::TxSide;
use crate::life::Taken;

/// Bytes of a chunk: the largest the kernel takes, a page.
pub(super) const CHUNK: usize = 4096;
/// Bytes before the frame in each chunk, the kernel's (`XDP_PACKET_HEADROOM`).
pub(super) const HEADROOM: usize = 256;
/// Bytes of frame that fit into one chunk.
pub(super) const CHUNK_ROOM: usize = CHUNK - HEADROOM;
/// Chunks for received frames, of each queue (8 MiB).
pub const XDP_RX_FRAMES: usize = 2048;
/// Chunks for frames to be sent, of each queue (8 MiB).
pub const XDP_TX_FRAMES: usize = 2048;

/// A socket and its rings and memory.
pub(super) struct Queue {
    /// Taken by the one worker that polls this queue, and only by trying: it never waits and nobody waits for it.
    pub(super) rx: Mutex<RxSide>,
    /// Held to take free chunks and to publish full ones; never over a copy or a system call.
    pub(super) tx: Mutex<TxSide>,
    /// The UMEM; holds it.
    pub(super) region: Arc<Region>,
    pub(super) umem: Umem,
    fd: RawFd,
    /// The same socket, for a worker to sleep on.
    pub(super) kick: Arc<OwnedFd>,
    /// Frames were left in the transmit ring: whoever polls next asks the kernel again.
    pub(super) again: AtomicBool,
    /// Frames harvested since the last look.
    pub(super) rx_frames: AtomicU64,
    /// The kernel's counts at the last look: dropped, refused.
    seen: [AtomicU64; 2],
}

impl Queue {
    /// Binds a socket to queue `number` of `device`.
    pub(super) fn open(device: &str, number: usize, bind: BindFlags) -> io::Result<Queue> {
        let size = |n: usize| QueueSize::new(n as u32).map_err(io::Error::other);
        let mut memory = UmemConfig::builder();
        memory.frame_size(FrameSize::new(CHUNK as u32).map_err(io::Error::other)?);
        memory.fill_queue_size(size(XDP_RX_FRAMES)?).comp_queue_size(size(XDP_TX_FRAMES)?);
        let memory = memory.build().map_err(io::Error::other)?;
        let count = NonZeroU32::new((XDP_RX_FRAMES + XDP_TX_FRAMES) as u32).ok_or(io::ErrorKind::InvalidInput)?;
        // No huge pages: those there are were set aside for guests.
        let (umem, mut frames) = Umem::new(memory, count, false).map_err(system)?;
        let region = adopt(&umem, &mut frames)?;
        let mut config = SocketConfig::builder();
        config.rx_queue_size(size(XDP_RX_FRAMES)?).tx_queue_size(size(XDP_TX_FRAMES)?).bind_flags(bind);
        config.libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD);
        let interface = device.parse::<Interface>().map_err(io::Error::other)?;
        // SAFETY: xsk-rs asks that no other socket of this UMEM share device and queue; this UMEM has one socket.
        let made = unsafe { Socket::new(config.build(), &umem, &interface, number as u32) };
        let (tx, rx, rings) = made.map_err(system)?;
        // The first socket of a UMEM always gets them.
        let (mut fill, done) = rings.ok_or(io::ErrorKind::InvalidData)?;
        let fd = rx.fd().as_raw_fd();
        // SAFETY: `rx` holds the descriptor open.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?;
        let kick = Arc::new(socket.try_clone_to_owned()?);
        let free = frames.split_off(XDP_RX_FRAMES);
        // SAFETY: frames of this queue's UMEM, handed over once (see the module).
        if unsafe { fill.produce(&frames) } != frames.len() {
            return Err(io::Error::other("the fill ring is too short"));
        }
        Ok(Queue {
            rx: Mutex::new(RxSide::new(rx, fill)),
            tx: Mutex::new(TxSide::new(tx, done, free)),
            region,
            umem,
            fd,
            kick,
            again: AtomicBool::new(false),
            rx_frames: AtomicU64::new(0),
            seen: Default::default(),
        })
    }

    /// The socket.
    #[inline]
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `rx`, which lives as long as self, holds the descriptor open.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// What was counted since the last call.
    pub(super) fn take_statistics(&self) -> Taken {
        let rx_frames = self.rx_frames.swap(0, Ordering::Relaxed);
        let Ok([dropped, refused]) = statistics(self.fd()) else { return Taken { rx_frames, ..Taken::default() } };
        let since = |now: u64, seen: &AtomicU64| now.wrapping_sub(seen.swap(now, Ordering::Relaxed));
        Taken { rx_frames, rx_drops: since(dropped, &self.seen[0]), tx_refused: since(refused, &self.seen[1]) }
    }
}

/// Frames the kernel dropped before they reached the RX ring, and descriptors it refused in the TX ring, since the
/// socket was made (`struct xdp_statistics` of `linux/if_xdp.h`).
fn statistics(fd: BorrowedFd<'_>) -> io::Result<[u64; 2]> {
    // rx_dropped, rx_invalid_descs, tx_invalid_descs, rx_ring_full, rx_fill_ring_empty_descs, tx_ring_empty_descs.
    // Frames for which there was no free chunk are among the dropped.
    let mut fields = [0u64; 6];
    let mut len = size_of_val(&fields) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `fields`, plain integers of our own; `fd` is open.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, libc::XDP_STATISTICS, (&raw mut fields).cast(), &raw mut len)
    };
    if result == 0 { Ok([fields[0] + fields[3], fields[2]]) } else { Err(io::Error::last_os_error()) }
}

/// The UMEM as a region, so that frames in it are windows like any other.
fn adopt(umem: &Umem, frames: &mut [FrameDesc]) -> io::Result<Arc<Region>> {
    let len = frames.len() * CHUNK;
    let mut start = None;
    for frame in frames {
        let at = frame.addr();
        // SAFETY: a frame of this UMEM, which nobody else knows of yet. The references end with this turn.
        let mut data = unsafe { umem.data_mut(frame) };
        // The view's length is that of the data in it.
        data.cursor().set_pos(CHUNK_ROOM);
        let here = data.contents_mut().as_mut_ptr().expose_provenance();
        data.cursor().set_pos(0);
        start = start.or(here.checked_sub(at));
    }
    let base = start.and_then(|start| NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(start)));
    let base = base.ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: xsk-rs made the UMEM by an anonymous mmap of `len` bytes (frames times their size, the first at
    // offset 0), which is unmapped when the last clone of `umem` is dropped; the region holds one. References into
    // it are made by `umem` only when asked, which we do here and in `tx.rs` for a frame that is ours alone.
    Ok(unsafe { Region::adopt(base, len, Box::new(umem.clone())) })
}

/// What the system said, out of an error of xsk-rs.
fn system(error: impl Error + Send + Sync + 'static) -> io::Error {
    let code = error.source().and_then(|e| e.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}
