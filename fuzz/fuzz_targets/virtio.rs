//! A guest that drives a virtio card. See `fuzz::virtio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::virtio::run(data));
