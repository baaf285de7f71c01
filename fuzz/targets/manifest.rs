#![no_main]
//! Manifests of model sets: as they are, and with the checksum that they ought to have, so that it does not stop every
//! change.
use fleetscore_pack::Manifest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fleetscore_fuzz::bounded(data.len(), 64, fleetscore_fuzz::ALWAYS, || {
        let _ = Manifest::parse(data);
        let Ok(mut manifest) = serde_json::from_slice::<Manifest>(data) else { return };
        manifest.checksum = manifest.sum();
        let text = serde_json::to_vec(&manifest).expect("it was JSON");
        if let Ok(again) = Manifest::parse(&text) {
            assert_eq!(again, manifest);
        }
    });
});
