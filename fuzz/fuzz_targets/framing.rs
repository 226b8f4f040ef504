//! Bytes of a VMM on the socket. See `fuzz::framing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::framing::run(data));
