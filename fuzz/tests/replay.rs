//! Every target on stable Rust, with neither coverage nor sanitizers: each file of `regressions/` and `corpus_seed/`,
//! then pseudo-random inputs and mutations of those files from a fixed seed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Pseudo-random inputs and mutations per target.
const INPUTS: u32 = 2000;
/// Longest of them in bytes.
const LONGEST: usize = 1500;

/// Xorshift (Marsaglia, "Xorshift RNGs", 64 bits).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }
}

fn files(kind: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target);
    let Ok(entries) = fs::read_dir(&dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// One change such as libFuzzer makes them.
fn mutate(input: &mut Vec<u8>, random: &mut Random, seeds: &[(PathBuf, Vec<u8>)]) {
    const VALUES: [u32; 8] = [0, 1, 0x7f, 0xff, 0x8000, 0xffff, 0x8000_0000, 0xffff_ffff];
    let at = random.below(input.len() + 1);
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => {
            let value = VALUES[random.below(VALUES.len())].to_le_bytes();
            input.iter_mut().skip(at).zip(&value[..1 << random.below(3)]).for_each(|(to, from)| *to = *from);
        }
        3 => {
            let len = random.below(24);
            let new = random.bytes(len);
            input.splice(at..at, new);
        }
        4 => {
            let end = (at + random.below(16)).min(input.len());
            input.drain(at..end);
        }
        5 => {
            let end = (at + random.below(64)).min(input.len());
            let part = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, part);
        }
        6 if !seeds.is_empty() => {
            let other = &seeds[random.below(seeds.len())].1;
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let len = random.below(64);
            input.extend(random.bytes(len));
        }
    }
    input.truncate(LONGEST);
}

/// Runs the body; an input that fails is kept, so that it can become a regression.
fn run(target: &fuzz::Target, from: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.1(input))) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-failing-input", target.0));
        fs::write(&kept, input).unwrap();
        eprintln!("{} fails with {from}; move {} to fuzz/regressions/{}/", target.0, kept.display(), target.0);
        resume_unwind(panic);
    }
}

fn replay(name: &str) {
    let target = fuzz::TARGETS.iter().find(|(n, _)| *n == name).expect("a target");
    let seeds = files("corpus_seed", name);
    assert!(!seeds.is_empty(), "{name} has seeds");
    let known = [seeds, files("regressions", name)].concat();
    for (path, input) in &known {
        run(target, &path.display().to_string(), input);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for n in 0..INPUTS {
        let mut input = if n % 4 == 0 {
            let len = random.below(LONGEST / 4);
            random.bytes(len)
        } else {
            known[random.below(known.len())].1.clone()
        };
        for _ in 0..random.below(8) {
            mutate(&mut input, &mut random, &known);
        }
        run(target, &format!("pseudo-random input {n}"), &input);
    }
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        /// No target is left out, and no file lies where nothing looks at it.
        #[test]
        fn every_target_is_replayed() {
            let names = [$(stringify!($name)),*];
            assert_eq!(fuzz::TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
            for kind in ["corpus_seed", "regressions"] {
                for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)).into_iter().flatten() {
                    let name = entry.unwrap().file_name();
                    assert!(names.iter().any(|n| **n == name), "{kind}/{name:?} belongs to no target");
                }
            }
        }
    };
}

targets!(vfio_user, framing, vhost_user, vmxnet3, vlance, virtio, frames, beacon, config, codec);
