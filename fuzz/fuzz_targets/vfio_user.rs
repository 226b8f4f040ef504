//! Messages of a VMM, whole, with descriptors. See `fuzz::vfio_user`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vfio_user::run(data));
