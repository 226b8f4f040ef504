//! Soft guests: the driver side of each card, in this process, over the switch's real vfio-user socket.
//!
//! ```text
//!  SoftVmxnet3 / SoftVlance --> Card --> Client ==socket==> switch (control thread)
//!      rings, buffers  ......>  Ram (memfd) <==mapped====== switch (workers)
//! ```
//!
//! They do what the Linux drivers `vmxnet3` and `pcnet32` do, in the same order, and look harder: what a
//! driver would have to swallow (a completion out of order, a buffer overrun, a frame without an
//! interrupt) is an error here. They share no code with the device models they test.

mod card;
pub mod client;
mod pool;
mod protocol;
mod ram;
mod virtio;
mod vlance;
mod vmxnet3;

use std::time::Duration;

use anyhow::Result;
use sharedmem::Slice;
use wire::{Mac, Tag};

pub use card::{Card, InterruptKind};
pub use client::{CallError, Client};
pub use pool::{BUFFER, HEADER, LINE, STRIDE};
pub use ram::Ram;
pub use virtio::{SoftVirtio, VirtioOptions};
pub use vlance::{SoftVlance, Style, VlanceOptions};
pub use vmxnet3::{Offload, RxFacts, RxMode, SoftVmxnet3, TxFrame, Vmxnet3Options, Vmxnet3Stats};

/// A frame the guest received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The frame, without FCS, and without the tag where the card took it out.
    pub bytes: Vec<u8>,
    /// The tag the card took out.
    pub tag: Option<Tag>,
    /// The card says that it checked the transport checksum and found it right.
    pub csum_ok: bool,
    /// The card says nothing about the checksum, and the driver must check it.
    pub csum_unknown: bool,
}

/// What [`SoftGuest::drain`] took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Frames.
    pub frames: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
}

impl std::ops::AddAssign for Drained {
    fn add_assign(&mut self, other: Drained) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// Who looks at frames where they lie: the tag the card took out, the first bytes, the length.
pub type See<'s> = dyn FnMut(Option<Tag>, &Slice<'_>, usize) + 's;

/// The same where its kind is known, and a call to it can be a part of the loop.
pub(crate) trait Sees: FnMut(Option<Tag>, &Slice<'_>, usize) {}

impl<F: FnMut(Option<Tag>, &Slice<'_>, usize) + ?Sized> Sees for F {}

/// What every soft guest can do, whatever its card.
pub trait SoftGuest: Send {
    /// Name of the card's kind.
    fn name(&self) -> &'static str;

    /// The card's address.
    fn mac(&self) -> Mac;

    /// Sends one frame (without FCS), waiting for room in the ring for up to five seconds.
    ///
    /// # Errors
    /// When the ring does not drain, or the switch breaks the card's rules.
    fn send(&mut self, frame: &[u8]) -> Result<()>;

    /// Sends up to `count` copies of `template` that lie in one buffer, as many as the ring has room for;
    /// returns how many. Allocates nothing.
    ///
    /// # Errors
    /// When the switch breaks the card's rules.
    fn send_burst(&mut self, template: &[u8], count: usize) -> Result<usize>;

    /// Makes `frames` ready to be sent by [`SoftGuest::send_each`].
    ///
    /// # Errors
    /// When there is no room for so many.
    fn lay(&mut self, _frames: &[Vec<u8>]) -> Result<()> {
        Ok(())
    }

    /// Sends up to `count` of the `frames` that were laid, from number `next` on and round again, as many as the ring
    /// has room for; returns how many. Allocates nothing.
    ///
    /// # Errors
    /// When the switch breaks the card's rules.
    fn send_each(&mut self, frames: &[Vec<u8>], next: &mut usize, count: usize) -> Result<usize>;

    /// Sends one frame if there is room now; false otherwise.
    ///
    /// # Errors
    /// When the switch breaks the card's rules.
    fn try_send(&mut self, frame: &[u8]) -> Result<bool> {
        Ok(self.send_burst(frame, 1)? == 1)
    }

    /// Waits up to `timeout` for the next frame.
    ///
    /// # Errors
    /// When the switch breaks the card's rules.
    fn recv(&mut self, timeout: Duration) -> Result<Option<Received>>;

    /// Takes all frames that are there without looking at them. Allocates nothing.
    ///
    /// # Errors
    /// When the switch breaks the card's rules.
    fn drain(&mut self) -> Result<Drained>;

    /// Takes all frames that are there and shows each to `see`: the tag the card took out, its first bytes (of short
    /// frames all) and its length. Allocates nothing.
    ///
    /// # Errors
    /// When the switch breaks the card's rules.
    fn drain_with(&mut self, see: &mut See<'_>) -> Result<()>;

    /// As [`SoftGuest::drain_with`], its errors too, for a card whose kind is known: without a call through a pointer for
    /// each frame where the card has a way to that.
    fn show(&mut self, mut see: impl FnMut(Option<Tag>, &Slice<'_>, usize)) -> Result<()>
    where
        Self: Sized,
    {
        self.drain_with(&mut see)
    }

    /// Frames sent that the switch has not completed yet.
    ///
    /// # Errors
    /// When the switch breaks the card's rules.
    fn in_flight(&mut self) -> Result<usize>;

    /// Frames that were in the ring when a wait for an interrupt ran out: their interrupt was lost. A test
    /// that waits should find 0 here at its end.
    fn late_frames(&self) -> u64;

    /// Socket, memory and interrupts: counting messages, and misbehaving.
    fn card(&mut self) -> &mut Card;

    /// Waits until the switch has completed everything that was sent.
    ///
    /// # Errors
    /// When that takes more than five seconds.
    fn flush(&mut self) -> Result<()> {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.in_flight()? > 0 {
            anyhow::ensure!(std::time::Instant::now() < deadline, "sent frames are not completed");
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

/// How long a soft guest waits for the switch before it calls that an error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A small generator for the hostile variants: same seed, same bytes (SplitMix64's constants).
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// A sequence by seed.
    pub fn new(seed: u64) -> Noise {
        Noise(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }
}
