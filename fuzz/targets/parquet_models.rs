#![no_main]
//! Parquet: the format's library decides what it allocates for a page; the values a small file may
//! claim are 64 MiB, which are held, decoded, cast and copied.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::models(data, "x.parquet", 1024, 256 << 20));
