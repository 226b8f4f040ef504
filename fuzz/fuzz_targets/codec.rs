//! Bytes of a client on the control socket. See `fuzz::codec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::codec::run(data));
