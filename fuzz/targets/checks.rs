#![no_main]
//! Check vectors of packs.
use bytes::Bytes;
use fleetscore_pack::Checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let input = Bytes::copy_from_slice(data);
    fleetscore_fuzz::bounded(data.len(), 64, fleetscore_fuzz::ALWAYS, || {
        let Ok(checks) = Checks::open(input) else { return };
        assert_eq!(checks.entries().len(), checks.len());
        assert_eq!(checks.decisions().len(), checks.len());
        assert_eq!(checks.inputs().len(), checks.len() * checks.features());
    });
});
