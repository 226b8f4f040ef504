//! Split rings that say anything: the receive half against an implementation of others, and both halves against what must
//! never happen.

#[path = "model.rs"]
mod model;

use dataplane::Ingress;
use model::{Model, Places, any_buffer, any_frames, inside, same};
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    Desc, EVENT_IDX, INDIRECT, MERGE, NEXT, PLAIN, RX_BUFFERS, RX_RING, Rig, TABLES, TX_RING, Tally, WRITE, Wire,
    leads_to_a_bad_table, other_queue,
};
use crate::rig::{BASE, SIZE, counted, frame};

/// Most pieces of memory of a chain that a frame is written to.
const PIECES: usize = 64;
/// What lies in receive buffers that nothing was written to.
const UNTOUCHED: u8 = 0xa5;

fn any_rx_desc() -> impl Strategy<Value = Desc> {
    let next = || prop_oneof![12 => 0u16..16, 1 => any::<u16>()];
    let flags = prop_oneof![12 => Just(WRITE), 6 => Just(WRITE | NEXT), 1 => Just(0), 1 => 0u16..8];
    let data = (any_buffer(), flags, next()).prop_map(|((addr, len), flags, next)| (addr, len, flags, next));
    let len = prop_oneof![8 => (1u32..8).prop_map(|n| n * 16), 1 => 0u32..600, 1 => any::<u32>()];
    let table = (0u64..32, len, prop_oneof![8 => Just(INDIRECT), 1 => 4u16..8], next())
        .prop_map(|(n, len, flags, next)| (BASE + TABLES as u64 + n * 16, len, flags, next));
    prop_oneof![5 => data, 1 => table]
}

/// Where `virtio-queue` lets the chain that is published next be written: `None` when the card must refuse it.
fn writable(queue: &mut Queue, memory: &GuestMemoryMmap, cut: usize) -> Places {
    let mut chain = queue.pop_descriptor_chain(memory).unwrap();
    let (mut places, mut pieces, mut ended) = (vec![], 0, false);
    for desc in chain.by_ref() {
        ended = !desc.has_next();
        if !desc.is_write_only() {
            return None;
        }
        if desc.len() > 0 {
            let at = inside(desc.addr().raw_value(), desc.len())?;
            let end = at + desc.len() as usize;
            pieces += if at < cut && cut < end { 2 } else { 1 };
            places.push((at, end - at));
        }
    }
    // The crate ends its iteration without a word where a chain is broken. A chain of no bytes is of no use.
    (ended && pieces <= PIECES && !places.is_empty()).then_some(places)
}

#[derive(Clone, Debug)]
enum Step {
    Give(u16),
    Deliver(Vec<usize>),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![5 => (0u16..18).prop_map(Step::Give), 1 => Just(Step::Give(64)), 3 => any_frames().prop_map(Step::Deliver)]
}

/// What the driver wrote before the card looked.
fn write(rig: &Rig, ring: usize, descs: &[Desc], tables: &[Desc]) {
    descs.iter().enumerate().for_each(|(n, desc)| rig.desc(ring + 16 * n, *desc));
    tables.iter().enumerate().for_each(|(n, desc)| rig.desc(TABLES + 16 * n, *desc));
    rig.poke(RX_BUFFERS, &vec![UNTOUCHED; SIZE - RX_BUFFERS]);
}

/// A driver of each kind: with the shorter header, with the longer, and one whose frames may take several chains.
fn any_features() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 1 => Just(PLAIN), 2 => Just(MERGE)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the driver writes to its receive ring: the card takes a chain where an implementation of others takes it,
    /// fills it from its first byte, writes nothing else, tells what became of each frame, and gives each chain back once.
    #[test]
    fn receive_chains_are_what_virtio_queue_makes_of_them(
        ring in prop::collection::vec(any_rx_desc(), 16),
        tables in prop::collection::vec(any_rx_desc(), 32),
        steps in prop::collection::vec(any_step(), 1..40),
        cut in 1usize..8192,
        features in any_features(),
    ) {
        let cut = RX_BUFFERS + cut;
        let mut rig = Rig::new(features, &[cut]);
        write(&rig, RX_RING, &ring, &tables);
        rig.desc(RX_RING + 16 * 60, (BASE + RX_BUFFERS as u64, 2048, WRITE, 0));
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(BASE), SIZE)]).unwrap();
        let mut queue = other_queue(&rig.rx);
        let mut model = Model::new(rig.peek(0, SIZE), rig.header, features == MERGE);
        let mut given = 0;
        // As many frames as there may be chains, then a good buffer (number 60).
        let all = || Step::Deliver(vec![60; 20]);
        let ends = [all(), all(), Step::Give(60), Step::Deliver(vec![60])];
        for step in steps.into_iter().chain(ends) {
            match step {
                Step::Give(head) => {
                    rig.publish(false, head);
                    memory.write_slice(&rig.peek(0, TABLES + 0x1000), GuestAddress(BASE)).unwrap();
                    let places = writable(&mut queue, &memory, cut);
                    // The crate looks at as much of such a table as there is; the standard forbids them to drivers.
                    let forbidden = head < 16 && leads_to_a_bad_table(&ring, head);
                    model.waiting.push_back((head, places.filter(|_| !forbidden)));
                    given += 1;
                }
                Step::Deliver(lens) => {
                    let frames: Vec<Vec<u8>> = lens.iter().map(|len| frame(*len, given)).collect();
                    model.deliver(&frames, &rig.deliver(&frames))?;
                    prop_assert_eq!(rig.used(false), std::mem::take(&mut model.used));
                }
            }
        }
        // Where a frame takes one chain, a chain that is too small for it is left to the next. Elsewhere none is left.
        prop_assert!(features != MERGE || model.waiting.is_empty());
        let [_, avail, used] = rig.rx.areas();
        same(&model.memory, &rig.peek(0, SIZE), &[avail..avail + 0x1000, used..used + 0x1000])?;
        prop_assert!((0..2).all(|queue| !rig.active.failed(queue)));
    }

    /// Indices, heads and descriptors that are anything, in both rings, and changed between looks: the sums agree, what comes
    /// back was given, and only what some descriptor offers is written.
    #[test]
    fn whatever_is_in_the_rings(
        rings in prop::array::uniform2(prop::collection::vec(any_rx_desc(), 64)),
        tables in prop::collection::vec(any_rx_desc(), 32),
        heads in prop::array::uniform2(prop::collection::vec(prop_oneof![6 => 0u16..64, 1 => any::<u16>()], 64)),
        rounds in prop::collection::vec((prop::array::uniform2(0u16..80), any_frames()), 1..6),
        features in any_features(),
        event_idx in any::<bool>(),
    ) {
        let mut rig = Rig::new(features | if event_idx { EVENT_IDX } else { 0 }, &[RX_BUFFERS + 100]);
        write(&rig, RX_RING, &rings[0], &tables);
        for (n, (addr, len, flags, next)) in rings[1].iter().enumerate() {
            rig.desc(TX_RING + 16 * n, (*addr, *len, flags ^ WRITE, *next));
        }
        let areas = [rig.rx.areas(), rig.tx.areas()];
        for ([_, avail, _], heads) in areas.iter().zip(&heads) {
            heads.iter().enumerate().for_each(|(n, head)| rig.poke(avail + 4 + 2 * n, &head.to_le_bytes()));
        }
        let before: Vec<_> = rig.peek(0, SIZE).into_iter().map(Some).collect();
        let mut index = [0u16; 2];
        for (n, (steps, lens)) in rounds.into_iter().enumerate() {
            for which in 0..2 {
                index[which] = index[which].wrapping_add(steps[which]);
                rig.poke(areas[which][1] + 2, &index[which].to_le_bytes());
            }
            let frames: Vec<Vec<u8>> = lens.iter().map(|len| frame(*len, n as u8)).collect();
            let told: Tally = rig.deliver(&frames);
            prop_assert_eq!(counted(&told).out_offered, frames.len() as u64);
            let mut wire = Wire::default();
            let taken: usize = std::iter::from_fn(|| Some(rig.queue.poll(&mut wire)).filter(|n| *n > 0)).take(100).sum();
            let seen = wire.offloads.len() + wire.rejected.len();
            prop_assert!(taken == seen && taken <= 64, "{} taken, {} seen", taken, seen);
            for (heads, tx) in heads.iter().zip([false, true]) {
                let back = rig.used(tx);
                prop_assert!(back.iter().all(|(head, _)| heads.contains(head)), "{:?}", back);
            }
        }
        let offered = rings[0].iter().chain(&tables).filter(|desc| desc.2 & WRITE != 0);
        let mut except: Vec<_> = offered
            .filter_map(|(addr, len, _, _)| inside(*addr, *len).map(|at| at..at + *len as usize))
            .collect();
        except.extend(areas.iter().flat_map(|[_, avail, used]| [avail + 2..avail + 4, *used..used + 0x1000]));
        same(&before, &rig.peek(0, SIZE), &except)?;
    }
}
