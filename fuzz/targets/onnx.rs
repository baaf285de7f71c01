#![no_main]
//! ONNX files: 8 times the file.
libfuzzer_sys::fuzz_target!(|data: &[u8]| fleetscore_fuzz::models(
    data,
    "x.onnx",
    8,
    fleetscore_fuzz::ALWAYS
));
