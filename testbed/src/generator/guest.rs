//! Stations that are soft guests.

use anyhow::Result;
use wire::Mac;

use super::{Checker, Station, Stream};
use crate::soft::{SoftGuest, SoftVirtio};

/// A virtio card: its frames lie in its memory, and only descriptors are written to send them.
pub(super) struct Virtio {
    card: SoftVirtio,
    marked: Marked,
}

impl Virtio {
    pub(super) fn new(card: SoftVirtio) -> Virtio {
        Virtio { card, marked: Marked::default() }
    }
}

impl Station for Virtio {
    fn mac(&self) -> Mac {
        self.card.mac()
    }

    fn prepare(&mut self, stream: &Stream) -> Result<()> {
        for n in 0..self.card.pool() {
            self.card.lay(n, &stream.frame(n, 0))?;
        }
        self.marked = Marked::new(stream);
        Ok(())
    }

    fn variety(&self) -> usize {
        self.card.pool()
    }

    #[inline]
    fn post(&mut self, count: usize) -> Result<usize> {
        self.card.post(count)
    }

    fn probe(&mut self, mark: u32) -> Result<bool> {
        self.card.try_send(&self.marked.frame(mark))
    }

    #[inline]
    fn take(&mut self, checker: &mut Checker) -> Result<()> {
        self.card.take_with(|frame| checker.see(None, &frame, frame.len())).map(drop)
    }
}

/// A card over vfio-user.
pub(super) struct Guest<G> {
    guest: G,
    frames: Vec<Vec<u8>>,
    next: usize,
    marked: Marked,
}

impl<G: SoftGuest> Guest<G> {
    pub(super) fn new(guest: G) -> Guest<G> {
        Guest { guest, frames: Vec::new(), next: 0, marked: Marked::default() }
    }
}

impl<G: SoftGuest> Station for Guest<G> {
    fn mac(&self) -> Mac {
        self.guest.mac()
    }

    fn prepare(&mut self, stream: &Stream) -> Result<()> {
        self.frames = (0..stream.kinds()).map(|n| stream.frame(n, 0)).collect();
        self.marked = Marked::new(stream);
        self.next = 0;
        self.guest.lay(&self.frames)
    }

    fn variety(&self) -> usize {
        self.frames.len()
    }

    fn post(&mut self, count: usize) -> Result<usize> {
        match self.frames.as_slice() {
            [] => Ok(0),
            [frame] => self.guest.send_burst(frame, count),
            frames => self.guest.send_each(frames, &mut self.next, count),
        }
    }

    fn probe(&mut self, mark: u32) -> Result<bool> {
        self.guest.try_send(&self.marked.frame(mark))
    }

    fn take(&mut self, checker: &mut Checker) -> Result<()> {
        self.guest.show(|tag, first, len| checker.see(tag, first, len))
    }
}

/// The frames of a stream as they are marked: of every kind in turn.
#[derive(Default)]
struct Marked {
    stream: Option<Stream>,
    next: usize,
}

impl Marked {
    fn new(stream: &Stream) -> Marked {
        Marked { stream: Some(stream.clone()), next: 0 }
    }

    fn frame(&mut self, mark: u32) -> Vec<u8> {
        self.next = self.next.wrapping_add(1);
        self.stream.as_ref().map_or_else(Vec::new, |stream| stream.frame(self.next, mark))
    }
}
