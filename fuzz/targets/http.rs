#![no_main]
//! The HTTP service: see [`fleetscore_fuzz::http`].
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::http::check(data));
