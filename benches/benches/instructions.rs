//! Instructions of each stage, counted by callgrind. `scripts/lint.sh` compares them with `baselines/instructions.toml`;
//! see `INSTRUCTIONS.md`.
#![allow(missing_docs)] // what the macros make

use benches::stages::{self, LONG, SHORT, Stage};
use gungraun::prelude::*;
use gungraun::{Callgrind, EntryPoint};

#[library_benchmark]
#[bench::poll_64(stages::poll(SHORT))]
#[bench::forward_1_flow(stages::forward(1))]
#[bench::forward_256_macs(stages::forward(256))]
#[bench::deliver_64(stages::deliver(SHORT))]
#[bench::turn_64(stages::turn(SHORT, 1))]
#[bench::turn_64_lone(stages::turn_lone(SHORT))]
#[bench::turn_64_256_macs(stages::turn(SHORT, 256))]
#[bench::poll_64_vmxnet3(stages::poll_vmxnet3(SHORT))]
#[bench::deliver_64_vmxnet3(stages::deliver_vmxnet3(SHORT))]
#[bench::turn_64_vmxnet3(stages::turn_vmxnet3(SHORT))]
#[bench::turn_1518(stages::turn(LONG, 1))]
#[bench::learning(stages::learning(2))]
#[bench::sum_64(stages::sum(SHORT))]
#[bench::fill_64(stages::fill(SHORT))]
#[bench::segmentation(stages::segmentation())]
fn stage(mut stage: Stage) {
    stage.rounds(stages::COUNTED_ROUNDS);
}

library_benchmark_group!(name = per_frame, benchmarks = [stage]);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::with_args(["--cache-sim=no"]).entry_point(EntryPoint::Custom(stages::COUNTED.to_owned()))),
    library_benchmark_groups = per_frame
);
