//! The hot path does not allocate: from a guest's ring through the switch into another guest's, turn after turn.

use benches::Rings;

/// Turns before it counts: lists find their size, queues their class.
const WARM_UP: usize = 200;
const TURNS: usize = 2_000;

/// How often memory was asked for in `TURNS` turns, and the frames that these took.
fn allocations(mut rings: Rings) -> (u64, usize) {
    let (mut count, mut frames) = (0, 0);
    for turn in 0..WARM_UP + TURNS {
        rings.fill();
        let mut taken = 0;
        let info = allocation_counter::measure(|| taken = rings.turn());
        if turn >= WARM_UP {
            count += info.count_total;
            frames += taken;
        }
    }
    assert!(rings.delivered().1, "every frame is accounted for");
    (count, frames)
}

#[test]
fn no_turn_allocates() {
    let virtio = [(60, 1), (1514, 1), (60, 256), (508, 1000)].map(|(frame, macs)| Rings::new(frame, macs));
    for rings in virtio.into_iter().chain([60, 1514].map(Rings::vmxnet3)) {
        let (count, frames) = allocations(rings);
        assert!(frames >= TURNS, "{frames} frames");
        assert_eq!(count, 0, "allocations in {TURNS} turns with {frames} frames");
    }
}

/// The counter sees what it is there for.
#[test]
fn an_allocation_would_be_seen() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1)))).count_total, 1);
}
