#![no_main]
//! Dead letters that are read again: see [`fleetscore_fuzz::replay`].
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::replay::check(data));
