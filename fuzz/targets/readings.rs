#![no_main]
//! The decoder of readings, in all its wire formats and settings: see [`fleetscore_fuzz::readings`].
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::readings::check(data));
