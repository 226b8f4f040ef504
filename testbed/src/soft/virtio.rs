//! The driver side of a virtio network card over vhost-user: what DPDK's virtio-user does, with one queue pair.
//!
//! ```text
//!  one memfd:  | TX ring | RX ring | TX pool: header + frame, 2 KiB each | RX pool | spare |
//!              given to the switch by SET_MEM_TABLE; rings and pools are written and read in place
//! ```
//!
//! Nothing is copied to send what lies in the pool ([`SoftVirtio::post`]): descriptors are written and published in
//! batches, as a fast driver does.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sharedmem::{DriverRing, SharedPage, Slice};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;
use wire::Mac;

use super::Drained;
use super::pool::{BUFFER, HEADER, LINE, NUM_BUFFERS, Pool, STRIDE};

/// Buffers beside the transmit pool, for frames sent in between.
const SPARE: usize = 1024;
const VERSION_1: u64 = 1 << 32;
const MRG_RXBUF: u64 = 1 << 15;
/// Descriptor flag: for the device to write.
const WRITE: u16 = 2;
/// Where the guest's memory lies, in guest physical and in its VMM's addresses: any will do.
const GUEST: u64 = 0x1_0000_0000;
const USER: u64 = 0x7f00_0000_0000;
/// `EFD_NONBLOCK`, which is `O_NONBLOCK`.
const O_NONBLOCK: i32 = 0o4000;
/// How long the switch may take to give a buffer back.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the card is driven.
#[derive(Clone, Copy, Debug)]
pub struct VirtioOptions {
    /// The card's address, as the guest believes.
    pub mac: Mac,
    /// Descriptors of each ring, a power of two.
    pub ring: u16,
    /// Buffers to send from, at least as many: each holds a frame of its own.
    pub tx_pool: usize,
    /// Buffers to receive into, at least as many: more than a cache holds makes every frame cold.
    pub rx_pool: usize,
}

impl VirtioOptions {
    /// 256 descriptors and buffers.
    pub fn new(mac: Mac) -> VirtioOptions {
        VirtioOptions { mac, ring: 256, tx_pool: 256, rx_pool: 256 }
    }
}

/// A guest on a virtio port.
pub struct SoftVirtio {
    // Dropped first: the switch lets go of the memory.
    front: Frontend,
    kicks: [EventFd; 2],
    _calls: [EventFd; 2],
    mac: Mac,
    ram: SharedPage,
    tx: DriverRing,
    rx: DriverRing,
    tx_pool: Pool,
    rx_pool: Pool,
    spare: Pool,
    /// Bytes to send of each buffer, header included.
    lens: Vec<u32>,
    /// Next available entry of each ring, and next used one to look at.
    tx_next: u16,
    rx_next: u16,
    rx_done: u16,
    /// Offset of the buffer behind each receive descriptor.
    rx_buffers: Vec<usize>,
}

impl SoftVirtio {
    /// Connects to the vhost-user socket at `path` and starts the card.
    ///
    /// # Errors
    /// When nobody listens or the back end refuses something.
    pub fn connect(path: &Path, options: VirtioOptions) -> Result<SoftVirtio> {
        let front = Frontend::connect(path, 2).with_context(|| format!("connecting to {}", path.display()))?;
        SoftVirtio::start(front, options).with_context(|| format!("at {}", path.display()))
    }

    /// Starts the card over a connection that the back end made.
    ///
    /// # Errors
    /// When the back end refuses something.
    pub fn over(stream: UnixStream, options: VirtioOptions) -> Result<SoftVirtio> {
        SoftVirtio::start(Frontend::from_stream(stream, 2), options)
    }

    fn start(front: Frontend, options: VirtioOptions) -> Result<SoftVirtio> {
        let ring = options.ring;
        let [to_send, to_receive] = [options.tx_pool, options.rx_pool].map(|pool| pool.max(usize::from(ring)));
        let ring_bytes = DriverRing::bytes(ring).next_multiple_of(4096);
        let total = (2 * ring_bytes + (to_send + to_receive + SPARE) * STRIDE + LINE).next_multiple_of(2 << 20);
        let ram = SharedPage::new("soft-virtio", total).context("guest memory")?;
        let region = ram.region();
        let (tx, avail, used) = DriverRing::new(ring, (region, 0)).context("a ring of that size")?;
        let (rx, ..) = DriverRing::new(ring, (region, ring_bytes)).context("a ring of that size")?;
        let front = negotiate(front, &ram, total)?;
        let event = || EventFd::new(O_NONBLOCK).context("an eventfd");
        let (kicks, calls) = ([event()?, event()?], [event()?, event()?]);
        let pools = 2 * ring_bytes + LINE - HEADER;
        let buffers = |before: usize, count| Pool::new(pools + before * STRIDE, count);
        let mut guest = SoftVirtio {
            front,
            kicks,
            _calls: calls,
            mac: options.mac,
            ram,
            tx,
            rx,
            tx_pool: buffers(0, to_send),
            rx_pool: buffers(to_send, to_receive),
            spare: buffers(to_send + to_receive, SPARE),
            lens: vec![0; to_send],
            tx_next: 0,
            rx_next: 0,
            rx_done: 0,
            rx_buffers: vec![0; usize::from(ring)],
        };
        guest.fill_receive_ring();
        for (index, start) in [(0, ring_bytes), (1, 0)] {
            guest.start_ring(index, USER + start as u64, avail as u64, used as u64)?;
        }
        Ok(guest)
    }

    fn start_ring(&mut self, index: usize, start: u64, avail: u64, used: u64) -> Result<()> {
        let size = self.tx.size();
        let data = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: start,
            used_ring_addr: start + used,
            avail_ring_addr: start + avail,
            log_addr: None,
        };
        let front = &mut self.front;
        front.set_vring_num(index, size)?;
        front.set_vring_base(index, 0)?;
        front.set_vring_addr(index, &data)?;
        front.set_vring_call(index, &self._calls[index])?;
        front.set_vring_kick(index, &self.kicks[index])?;
        front.set_vring_enable(index, true)?;
        Ok(())
    }

    fn fill_receive_ring(&mut self) {
        self.tx.set_no_interrupt(true);
        self.rx.set_no_interrupt(true);
        for id in 0..self.rx.size() {
            self.offer(id);
        }
        self.rx.publish(self.rx_next);
    }

    /// Gives descriptor `id` a buffer and makes it available.
    #[inline]
    fn offer(&mut self, id: u16) {
        let (_, offset) = self.rx_pool.take();
        if let Some(buffer) = self.rx_buffers.get_mut(usize::from(id)) {
            *buffer = offset;
        }
        self.rx.write_desc(id, GUEST + offset as u64, BUFFER as u32, WRITE, 0);
        self.rx.set_avail(self.rx_next, id);
        self.rx_next = self.rx_next.wrapping_add(1);
    }

    /// Buffers to send from.
    pub fn pool(&self) -> usize {
        self.tx_pool.count()
    }

    /// Writes `frame` into buffer `index` of the transmit pool.
    ///
    /// # Errors
    /// When it does not fit or there is no such buffer.
    pub fn lay(&mut self, index: usize, frame: &[u8]) -> Result<()> {
        let len = self.write(self.tx_pool.place(index), frame)?;
        *self.lens.get_mut(index).context("no such buffer")? = len;
        Ok(())
    }

    /// Writes a header and `frame` at `at`; returns their length.
    fn write(&self, at: usize, frame: &[u8]) -> Result<u32> {
        ensure!(frame.len() + HEADER <= BUFFER, "a frame of {} bytes does not fit a buffer", frame.len());
        let memory = self.ram.slice();
        ensure!(memory.write_at(at, &[0; HEADER]) && memory.write_at(at + HEADER, frame), "no such buffer");
        Ok((HEADER + frame.len()) as u32)
    }

    /// Sends the frames of the next `count` buffers of the pool, as many as the ring has room for; returns how many.
    ///
    /// # Errors
    /// When the device gives back more than it was given.
    #[inline]
    pub fn post(&mut self, count: usize) -> Result<usize> {
        let n = count.min(self.room()?);
        for at in (0..n).step_by(4) {
            self.tx.prefetch_desc_write(self.tx_next.wrapping_add(at as u16));
        }
        for _ in 0..n {
            let (index, offset) = self.tx_pool.take();
            let len = self.lens.get(index).copied().unwrap_or(0);
            self.describe(offset, len);
        }
        if n > 0 {
            self.tx.publish(self.tx_next);
            self.kick(1);
        }
        Ok(n)
    }

    /// Sends a frame that is not one of the pool, if there is room now; false otherwise.
    ///
    /// # Errors
    /// As [`SoftVirtio::post`], and when the frame does not fit a buffer.
    pub fn try_send(&mut self, frame: &[u8]) -> Result<bool> {
        if self.room()? == 0 {
            return Ok(false);
        }
        let (_, at) = self.spare.take();
        let len = self.write(at, frame)?;
        self.describe(at, len);
        self.tx.publish(self.tx_next);
        self.kick(1);
        Ok(true)
    }

    /// Free transmit descriptors.
    #[inline]
    fn room(&self) -> Result<usize> {
        let size = self.tx.size();
        let in_flight = self.in_flight();
        ensure!(in_flight <= size, "the device used more than it was given");
        Ok(usize::from(size - in_flight))
    }

    /// Makes the buffer at `offset` the next to be sent.
    #[inline]
    fn describe(&mut self, offset: usize, len: u32) {
        let id = self.tx_next & (self.tx.size() - 1);
        self.tx.write_desc(id, GUEST + offset as u64, len, 0, 0);
        self.tx.set_avail(self.tx_next, id);
        self.tx_next = self.tx_next.wrapping_add(1);
    }

    /// Takes what has come, a ring's length at most, and gives the buffers back.
    ///
    /// # Errors
    /// When the device reports what it was not given.
    #[inline]
    pub fn take(&mut self) -> Result<Drained> {
        self.take_with(|_| {})
    }

    /// As [`SoftVirtio::take`], its errors too, and shows each frame to `see` where it lies.
    #[inline]
    pub fn take_with(&mut self, mut see: impl FnMut(Slice<'_>)) -> Result<Drained> {
        let mut drained = Drained::default();
        let waiting = self.rx.used_idx().wrapping_sub(self.rx_done);
        if waiting == 0 {
            return Ok(drained);
        }
        let size = self.rx.size();
        ensure!(waiting <= size, "the device used more than it was given");
        for at in (0..waiting).step_by(8) {
            self.rx.prefetch_used(self.rx_done.wrapping_add(at));
        }
        for at in (0..waiting).step_by(4) {
            self.rx.prefetch_desc_write(self.rx_next.wrapping_add(at));
        }
        for at in 0..waiting {
            let (id, len) = self.rx.used(self.rx_done.wrapping_add(at));
            ensure!(id < size && len as usize >= HEADER, "a used entry of descriptor {id} and {len} bytes");
            drained.frames += 1;
            drained.bytes += u64::from(len) - HEADER as u64;
            let offset = self.rx_buffers.get(usize::from(id)).copied().unwrap_or(0);
            ensure!(
                self.ram.slice().load_u16(offset + NUM_BUFFERS) == Some(1),
                "a frame in several buffers, which each hold one"
            );
            see(self.ram.slice().sub(offset + HEADER, len as usize - HEADER).context("a used entry beyond memory")?);
            self.offer(id);
        }
        self.rx_done = self.rx_done.wrapping_add(waiting);
        self.rx.publish(self.rx_next);
        self.kick(0);
        Ok(drained)
    }

    /// Frames sent whose buffers are not back yet.
    pub fn in_flight(&self) -> u16 {
        self.tx_next.wrapping_sub(self.tx.used_idx())
    }

    #[inline]
    fn kick(&self, index: usize) {
        // The index is visible before the device's wish is read.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let ring = if index == 0 { &self.rx } else { &self.tx };
        if ring.wants_kick() {
            let _ = self.kicks[index].write(1);
        }
    }

    /// The card's address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Sends one frame (without FCS), waiting for room in the ring for up to five seconds.
    ///
    /// # Errors
    /// When the ring does not drain, or the switch breaks the rules.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.wait_for_room(usize::from(self.tx.size()) - 1)?;
        ensure!(self.try_send(frame)?, "no room in the ring");
        Ok(())
    }

    /// Waits until the switch has given back every buffer that was sent.
    ///
    /// # Errors
    /// When that takes more than five seconds.
    pub fn flush(&mut self) -> Result<()> {
        self.wait_for_room(0)
    }

    fn wait_for_room(&self, most: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while usize::from(self.in_flight()) > most {
            ensure!(Instant::now() < deadline, "the transmit ring does not drain");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Waits up to `timeout` for the next frame, without FCS.
    ///
    /// # Errors
    /// When the switch breaks the rules.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        while self.rx.used_idx() == self.rx_done {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::yield_now();
        }
        let (id, len) = self.rx.used(self.rx_done);
        let offset = self.rx_buffers.get(usize::from(id)).copied().context("a used entry of no descriptor")?;
        ensure!((HEADER..=BUFFER).contains(&(len as usize)), "a used entry of {len} bytes");
        let mut bytes = vec![0; len as usize - HEADER];
        ensure!(self.ram.slice().read_at(offset + HEADER, &mut bytes), "a buffer outside memory");
        self.rx_done = self.rx_done.wrapping_add(1);
        self.offer(id);
        self.rx.publish(self.rx_next);
        self.kick(0);
        Ok(Some(bytes))
    }
}

/// Features, owner and memory.
fn negotiate(mut front: Frontend, ram: &SharedPage, total: usize) -> Result<Frontend> {
    front.set_owner()?;
    let offered = front.get_features()?;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    ensure!(offered & protocol != 0, "the back end knows no protocol features");
    // Asked for whatever is made of it: back ends remember it.
    let _: VhostUserProtocolFeatures = front.get_protocol_features()?;
    front.set_protocol_features(VhostUserProtocolFeatures::empty())?;
    let wanted = VERSION_1 | MRG_RXBUF | protocol;
    ensure!(offered & wanted == wanted, "the back end offers {offered:#x}, and {wanted:#x} is needed");
    front.set_features(wanted)?;
    front.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST,
        memory_size: total as u64,
        userspace_addr: USER,
        mmap_offset: 0,
        mmap_handle: ram.fd().as_raw_fd(),
    }])?;
    Ok(front)
}
