//! Per-destination lists: what a burst brings each port, in order.

use std::ops::Range;

use arrayvec::ArrayVec;
use wire::Tag;

use crate::{BURST, Delivery, DropReason, PortId, Tally};

/// One list per port, reused from burst to burst; only touched ones are looked at.
#[derive(Default)]
pub(crate) struct Lists {
    ports: Vec<Destination>,
    touched: Vec<PortId>,
}

#[derive(Default)]
struct Destination {
    deliveries: ArrayVec<Delivery, BURST>,
    tally: Tally,
    touched: bool,
}

impl Lists {
    /// Makes room for ports 0..limit. The only place that allocates; called when the snapshot changes.
    pub(crate) fn resize(&mut self, limit: usize) {
        self.ports.resize_with(limit, Destination::default);
        self.touched.reserve(limit);
    }

    #[inline]
    fn touch(&mut self, port: PortId) -> Option<&mut Destination> {
        let destination = self.ports.get_mut(usize::from(port.0))?;
        if !destination.touched {
            destination.touched = true;
            self.touched.push(port);
        }
        Some(destination)
    }

    /// Adds a delivery. A burst has at most as many frames as a list has places.
    #[inline]
    pub(crate) fn put(&mut self, port: PortId, delivery: Delivery) {
        if let Some(d) = self.touch(port)
            && d.deliveries.try_push(delivery).is_err()
        {
            d.tally.dropped(DropReason::RingFull);
        }
    }

    /// Adds a delivery for each of the frames `frames`.
    #[inline]
    pub(crate) fn put_run(&mut self, port: PortId, frames: Range<usize>, tag: Option<Tag>) {
        let Some(d) = self.touch(port) else { return };
        let run = Delivery::in_order(frames);
        // As many fit as a burst has frames, and each is put once.
        let (some, too_many) = run.split_at(run.len().min(d.deliveries.remaining_capacity()));
        match tag {
            // Cannot fail: so many fit.
            None => _ = d.deliveries.try_extend_from_slice(some),
            Some(_) => d.deliveries.extend(some.iter().map(|delivery| delivery.with(tag))),
        }
        too_many.iter().for_each(|_| d.tally.dropped(DropReason::RingFull));
    }

    /// Counts a frame that the port refuses before it is even offered to its ring.
    pub(crate) fn refuse(&mut self, port: PortId, reason: DropReason) {
        if let Some(d) = self.touch(port) {
            d.tally.dropped(reason);
        }
    }

    /// True when frame `index` is on the port's list.
    pub(crate) fn has(&self, port: PortId, index: u8) -> bool {
        self.ports
            .get(usize::from(port.0))
            .is_some_and(|d| d.deliveries.iter().any(|x| x.index() == usize::from(index)))
    }

    /// Asks for what the next delivery to `port` will need, as far as the port said so.
    #[inline]
    pub(crate) fn ask_for(&self, port: PortId) {
        if let Some(d) = self.ports.get(usize::from(port.0)) {
            d.tally.ask_ahead();
        }
    }

    /// Hands each touched port's list and tally to `each`, in the order they were first touched, and
    /// empties them.
    #[inline]
    pub(crate) fn drain(&mut self, mut each: impl FnMut(PortId, &[Delivery], &mut Tally)) {
        for port in self.touched.drain(..) {
            if let Some(d) = self.ports.get_mut(usize::from(port.0)) {
                each(port, &d.deliveries, &mut d.tally);
                d.deliveries.clear();
                d.tally.clear();
                d.touched = false;
            }
        }
    }
}
