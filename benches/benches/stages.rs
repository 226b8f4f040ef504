//! The time of each stage per frame: `cargo bench -p vswitch-benches --bench stages`.
#![allow(missing_docs)] // what the macros make

use benches::stages::{self, FRAMES, LONG, SHORT, Stage};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A stage's name, and how it is made ready.
type Named = (&'static str, fn() -> Stage);

/// Every stage.
const STAGES: &[Named] = &[
    ("poll/64", || stages::poll(SHORT)),
    ("poll/1518", || stages::poll(LONG)),
    ("poll/64, vmxnet3", || stages::poll_vmxnet3(SHORT)),
    ("forward/1 flow", || stages::forward(1)),
    ("forward/256 MACs", || stages::forward(256)),
    ("deliver/64", || stages::deliver(SHORT)),
    ("deliver/1518", || stages::deliver(LONG)),
    ("deliver/64, vmxnet3", || stages::deliver_vmxnet3(SHORT)),
    ("turn/64", || stages::turn(SHORT, 1)),
    ("turn/64, one at a time", || stages::turn_lone(SHORT)),
    ("turn/64, 256 MACs", || stages::turn(SHORT, 256)),
    ("turn/64, vmxnet3", || stages::turn_vmxnet3(SHORT)),
    ("turn/1518", || stages::turn(LONG, 1)),
    ("learning/256", || stages::learning(256)),
    ("learning/65536", || stages::learning(65_536)),
    ("sum/64", || stages::sum(SHORT)),
    ("sum/1518", || stages::sum(LONG)),
    ("fill/64", || stages::fill(SHORT)),
    ("fill/1518", || stages::fill(LONG)),
    ("segmentation/1460", stages::segmentation),
];

/// An iteration is a round, so that elements per second are frames per second.
fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stages");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, ready) in STAGES {
        let mut stage = ready();
        group.bench_function(*name, |bencher| bencher.iter_custom(|rounds| stage.rounds(rounds)));
    }
    group.finish();
}

criterion_group!(stages_of_the_data_path, all);
criterion_main!(stages_of_the_data_path);
