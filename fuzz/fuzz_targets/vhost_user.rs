//! What a VMM says by vhost-user. See `fuzz::vhost_user`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vhost_user::run(data));
