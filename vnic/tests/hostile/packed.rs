//! Packed rings that say anything: chains of a driver that keeps its ring in order and puts anything in it, and rings that are
//! in no order at all.

#[path = "model.rs"]
mod model;

use dataplane::{Ingress, MAX_FRAME, MAX_FRAME_SLICES};
use model::{Model, Places, any_buffer, any_frames, inside, same};
use proptest::prelude::*;

use super::{
    AVAIL, DEVICE, EVENT_IDX, INDIRECT, MERGE, NEXT, PLAIN, Piece, RX, RX_BUFFERS, RX_RING, Rig, TABLES, TX,
    TX_BUFFERS, TX_RING, USED, WRITE, Wire, buffer,
};
use crate::rig::{BASE, SIZE, counted, frame};

/// What lies in receive buffers that nothing was written to.
const UNTOUCHED: u8 = 0xa5;
/// Descriptors of either ring, and entries of tables.
const RING: u16 = 32;
const ENTRIES: usize = 32;

/// A descriptor that stands for a table, often one that is there.
fn any_table() -> impl Strategy<Value = Piece> {
    let len = prop_oneof![8 => (1u32..8).prop_map(|n| n * 16), 1 => 0u32..600, 1 => any::<u32>()];
    let flags = prop_oneof![8 => Just(INDIRECT), 1 => Just(INDIRECT | WRITE), 1 => Just(INDIRECT | 8)];
    (0u64..ENTRIES as u64, len, flags).prop_map(|(n, len, flags)| (BASE + TABLES as u64 + n * 16, len, flags))
}

fn any_rx_piece() -> impl Strategy<Value = Piece> + Clone {
    let flags = prop_oneof![16 => Just(WRITE), 1 => Just(0), 1 => Just(WRITE | 8)];
    (any_buffer(), flags).prop_map(|((addr, len), flags)| (addr, len, flags))
}

fn any_tx_piece() -> impl Strategy<Value = Piece> + Clone {
    let first = BASE + TX_BUFFERS as u64;
    let addr = prop_oneof![
        12 => (0..64u64).prop_map(move |n| first + n * 64),
        1 => Just(BASE + SIZE as u64 - 32),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![8 => (1u32..10).prop_map(|n| n * 16), 2 => 0u32..200, 1 => any::<u32>()];
    (addr, len, prop_oneof![16 => Just(0), 1 => Just(WRITE)])
}

/// A chain that may end in a table, or have one in its middle.
fn any_chain(piece: impl Strategy<Value = Piece> + Clone) -> impl Strategy<Value = Vec<Piece>> {
    prop_oneof![
        12 => piece.clone().prop_map(|one| vec![one]),
        3 => prop::collection::vec(piece, 2..4),
        1 => any_table().prop_map(|table| vec![table]),
        1 => prop::collection::vec(any_table(), 2),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Give(Vec<Piece>),
    Send(Vec<Piece>),
    Deliver(Vec<usize>),
    Poll,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any_chain(any_rx_piece()).prop_map(Step::Give),
        3 => any_chain(any_tx_piece()).prop_map(Step::Send),
        3 => any_frames().prop_map(Step::Deliver),
        1 => Just(Step::Poll),
    ]
}

/// Table entries of both directions; what they say of a next one, or of tables, means nothing.
fn any_entries() -> impl Strategy<Value = Vec<Piece>> {
    let noise = prop_oneof![Just(0), Just(NEXT), Just(INDIRECT), any::<u16>().prop_map(|flags| flags & !WRITE)];
    let entry = (prop_oneof![2 => any_rx_piece(), 1 => any_tx_piece()], noise);
    prop::collection::vec(entry.prop_map(|((addr, len, flags), noise)| (addr, len, flags & WRITE | noise)), ENTRIES)
}

/// The places of a chain: the standard's text again (virtio 1.2, 2.8.5 to 2.8.8). `direction` is [`WRITE`] or 0.
fn places(chain: &[Piece], entries: &[Piece], direction: u16) -> Places {
    let mut all = vec![];
    let mut add = |(addr, len, flags): Piece| {
        if flags & WRITE != direction {
            return None;
        }
        if len > 0 {
            all.push((inside(addr, len)?, len as usize));
        }
        Some(())
    };
    for (n, (addr, len, flags)) in chain.iter().enumerate() {
        if flags & INDIRECT == 0 {
            add((*addr, *len, *flags))?;
            continue;
        }
        let first = (inside(*addr, *len)? - TABLES) / 16;
        // A table is all of the chain, or its end; it has whole entries, and no more than a chain may have.
        if n + 1 < chain.len() || *len == 0 || len % 16 != 0 || *len > 128 * 16 {
            return None;
        }
        for n in 0..*len as usize / 16 {
            add(entries.get(first + n).copied().unwrap_or_default())?;
        }
    }
    Some(all)
}

/// The frame that a transmit chain is, and its header; `None` when the card must refuse it.
fn sent(rig: &Rig, chain: &[Piece], entries: &[Piece]) -> Option<Vec<u8>> {
    let places = places(chain, entries, 0)?;
    let len = places.iter().map(|place| place.1).sum();
    let whole = places.len() <= MAX_FRAME_SLICES && (rig.header + 14..=rig.header + MAX_FRAME).contains(&len);
    whole.then(|| places.into_iter().flat_map(|(at, len)| rig.peek(at, len)).collect())
}

/// What the driver wrote before the card looked.
fn write(rig: &Rig, entries: &[Piece]) {
    entries.iter().enumerate().for_each(|(n, entry)| rig.desc(TABLES + 16 * n, *entry, 0xbeef));
    rig.poke(RX_BUFFERS, &vec![UNTOUCHED; SIZE - RX_BUFFERS]);
    // Zeros where headers begin, so that none asks for anything, and marks behind.
    let data: Vec<u8> = (0..0x2000usize).map(|n| if n % 16 < 12 { 0 } else { (n / 16) as u8 }).collect();
    rig.poke(TX_BUFFERS, &data);
}

/// Both directions of a card under test, and what must come of what its driver did.
struct Hostile {
    rig: Rig,
    model: Model,
    entries: Vec<Piece>,
    /// Transmit chains given.
    sent: Vec<(u16, Vec<Piece>)>,
    seed: u8,
}

impl Hostile {
    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        self.seed = self.seed.wrapping_add(1);
        match step {
            Step::Give(chain) => {
                if let Some(id) = self.rig.give(RX, &chain) {
                    // A chain of no bytes is of no use.
                    let places = places(&chain, &self.entries, WRITE).filter(|places| !places.is_empty());
                    self.model.waiting.push_back((id, places));
                }
            }
            Step::Send(chain) => {
                if let Some(id) = self.rig.give(TX, &chain) {
                    self.sent.push((id, chain));
                }
            }
            Step::Deliver(lens) => {
                let frames: Vec<Vec<u8>> = lens.iter().map(|len| frame(*len, self.seed)).collect();
                self.model.deliver(&frames, &self.rig.deliver(&frames))?;
                prop_assert_eq!(self.rig.used(RX), std::mem::take(&mut self.model.used));
            }
            Step::Poll => {
                // Looked at as late as the card looks: what is received changes memory.
                let given = std::mem::take(&mut self.sent);
                let chains = given.iter().map(|(_, chain)| sent(&self.rig, chain, &self.entries));
                let good: Vec<Vec<u8>> = chains.flatten().collect();
                let wire = self.rig.poll();
                let back: Vec<(u16, u32)> = given.iter().map(|(id, _)| (*id, 0)).collect();
                prop_assert_eq!(self.rig.used(TX), back);
                prop_assert_eq!(wire.offloads.len() + wire.rejected.len(), given.len());
                // A header that asks for something is another test's.
                if good.iter().all(|bytes| bytes[0] == 0 && bytes[1] == 0) {
                    let frames: Vec<_> = good.iter().map(|bytes| bytes[self.rig.header..].to_vec()).collect();
                    prop_assert_eq!(wire.frames, frames);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is in the chains of either direction: the good are used as they are, the others come back with nothing in
    /// them, each once and in its place; each frame is told of; nothing else is written.
    #[test]
    fn chains_of_anything(
        steps in prop::collection::vec(any_step(), 1..60),
        entries in any_entries(),
        start in (0..RING, any::<bool>()),
        features in prop_oneof![Just(PLAIN), Just(MERGE)],
    ) {
        let rig = Rig::sized(features, [RING; 2], start, &[RX_BUFFERS + 100]);
        write(&rig, &entries);
        let model = Model::new(rig.peek(0, SIZE), rig.header, features == MERGE);
        let mut all = Hostile { rig, model, entries, sent: vec![], seed: 0 };
        // As many frames as there may be chains, then a good buffer and a good frame.
        let whole = vec![(BASE + TX_BUFFERS as u64, 112, 0)];
        let many = || Step::Deliver(vec![60; 20]);
        let last = [Step::Give(vec![buffer(0, 2048)]), Step::Deliver(vec![60]), Step::Send(whole), Step::Poll];
        for step in steps.into_iter().chain([many(), many(), Step::Poll]).chain(last) {
            all.step(step)?;
        }
        prop_assert!(features == PLAIN || all.model.waiting.is_empty());
        prop_assert!(!all.rig.failed(RX) && !all.rig.failed(TX));
        same(&all.model.memory, &all.rig.peek(0, SIZE), &[TX_RING..TX_RING + 0x5000, RX_RING..RX_RING + 0x5000])?;
    }

    /// Rings whose descriptors are anything, whosever they are, and change between looks: the sums agree, what comes back was
    /// in the ring, and only what some descriptor offers is written.
    #[test]
    fn whatever_is_in_the_rings(
        rounds in prop::collection::vec((any_ring(any_rx_piece()), any_ring(any_tx_piece()), any_frames()), 1..4),
        entries in any_entries(),
        features in prop_oneof![Just(PLAIN), Just(MERGE), Just(MERGE | EVENT_IDX)],
    ) {
        let mut rig = Rig::sized(features, [RING; 2], (0, true), &[RX_BUFFERS + 100]);
        write(&rig, &entries);
        let before: Vec<_> = rig.peek(0, SIZE).into_iter().map(Some).collect();
        let mut except = vec![TX_RING..TX_RING + 0x5000, RX_RING..RX_RING + 0x5000];
        let mut offer = |pieces: &mut dyn Iterator<Item = Piece>| {
            let writable = pieces.filter(|(_, _, flags)| flags & WRITE != 0);
            except.extend(writable.filter_map(|(addr, len, _)| inside(addr, len).map(|at| at..at + len as usize)));
        };
        offer(&mut entries.iter().copied());
        for (n, (rx, tx, lens)) in rounds.iter().enumerate() {
            for (which, ring) in [(RX, rx), (TX, tx)] {
                for (index, (piece, id)) in ring.iter().enumerate() {
                    rig.desc(rig.rings[which].desc(index as u16), *piece, *id);
                }
            }
            offer(&mut rx.iter().map(|(piece, _)| *piece));
            let frames: Vec<Vec<u8>> = lens.iter().map(|len| frame(*len, n as u8)).collect();
            prop_assert_eq!(counted(&rig.deliver(&frames)).out_offered, frames.len() as u64);
            let mut wire = Wire::default();
            let polls = std::iter::from_fn(|| Some(rig.queue.poll(&mut wire)).filter(|n| *n > 0)).take(100);
            let (taken, seen) = (polls.sum::<usize>(), wire.offloads.len() + wire.rejected.len());
            // No descriptor is taken twice, for it is used.
            prop_assert!(taken == seen && taken <= usize::from(RING), "{} taken, {} seen", taken, seen);
            for (which, ring) in [(RX, rx), (TX, tx)] {
                for index in 0..RING {
                    let at = rig.rings[which].desc(index);
                    prop_assert!(ring.iter().any(|(_, id)| *id == rig.word(at + 12)), "an identifier of none");
                }
                // The device's half of the events is all that it may write behind the ring.
                let behind = rig.rings[which].at + 16 * usize::from(RING);
                let end = rig.rings[which].at + DEVICE;
                prop_assert!(rig.peek(behind, end - behind).iter().all(|byte| *byte == 0));
            }
        }
        same(&before, &rig.peek(0, SIZE), &except)?;
    }
}

/// A ring's descriptors with their identifiers; most are available, in one round or the other.
fn any_ring(piece: impl Strategy<Value = Piece>) -> impl Strategy<Value = Vec<(Piece, u16)>> {
    let owner = prop_oneof![6 => Just(AVAIL), 2 => Just(USED), 1 => Just(0), 1 => Just(AVAIL | USED)];
    let piece = prop_oneof![6 => piece, 1 => any_table()];
    let next = prop_oneof![3 => Just(0), 1 => Just(NEXT)];
    let one = (piece, owner, next, prop_oneof![0..RING, any::<u16>()]);
    let one = one.prop_map(|((addr, len, flags), owner, next, id)| ((addr, len, flags | owner | next), id));
    prop::collection::vec(one, usize::from(RING))
}
