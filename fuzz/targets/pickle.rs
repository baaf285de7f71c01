#![no_main]
//! Pickles: 300 bytes for each opcode, which has at least one byte, and 16 times an array of bytes.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fleetscore_fuzz::bounded(data.len(), 320, fleetscore_fuzz::ALWAYS, || {
        if let Ok(model) = fleetscore_formats::pickle::read_model(data) {
            model.validate().expect("what is read is valid");
        }
    });
});
