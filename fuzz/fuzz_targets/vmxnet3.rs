//! A guest that drives a vmxnet3 card. See `fuzz::vmxnet3`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vmxnet3::run(data));
