#![no_main]
//! JSON: one model at a time, whose numbers take at most 8 bytes and are read into a vector that doubles.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::models(
    data,
    "x.json",
    64,
    fleetscore_fuzz::ALWAYS
));
