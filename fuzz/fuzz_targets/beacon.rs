//! Beacons of anyone on the network. See `fuzz::beacon`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::beacon::run(data));
