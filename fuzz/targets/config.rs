#![no_main]
//! The settings, out of a file, the environment and flags: see [`fleetscore_fuzz::config`].
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::config::check(data));
