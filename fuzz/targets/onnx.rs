#![no_main]
//! ONNX files: 32 times the file.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::models(
    data,
    "x.onnx",
    32,
    fleetscore_fuzz::ALWAYS
));
