//! A guest that drives a vlance card. See `fuzz::vlance`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vlance::run(data));
