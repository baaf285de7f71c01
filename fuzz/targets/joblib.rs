#![no_main]
//! joblib files, plain and compressed: the 320 of a pickle for each byte it unpacks to, which is at most 1 MiB here. What
//! is unpacked is fuzzed too, packed again without compression, so that the checksum does not stop every change.
use std::io::Write;

/// A small file unpacks to no more.
const UNPACKED: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fleetscore_fuzz::models(data, "x.joblib", 320, UNPACKED * 320);
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
    packed.write_all(data).expect("memory");
    fleetscore_fuzz::models(&packed.finish().expect("memory"), "x.joblib", 320, UNPACKED * 320);
});
