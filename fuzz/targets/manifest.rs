#![no_main]
//! Manifests of model sets: what can be read says the same when it is written and read again.
use fleetscore_pack::Manifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fleetscore_fuzz::bounded(data.len(), 64, fleetscore_fuzz::ALWAYS, || {
        let Ok(manifest) = Manifest::parse(data) else { return };
        let text = serde_json::to_vec(&manifest).expect("it was JSON");
        assert_eq!(Manifest::parse(&text).expect("it was good"), manifest);
    });
});
