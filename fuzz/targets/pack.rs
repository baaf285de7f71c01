#![no_main]
//! Shards of packs: opened, then every accessor, every model.
use bytes::Bytes;
use fleetscore_pack::Shard;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let input = Bytes::copy_from_slice(data);
    fleetscore_fuzz::bounded(data.len(), 64, fleetscore_fuzz::ALWAYS, || {
        let Ok(shard) = Shard::open(input) else { return };
        for row in 0..shard.len() {
            let entry = shard.entry(row);
            assert_eq!(entry.series, shard.series()[row]);
            if let Ok(model) = entry.outcome {
                model.validate().expect("what is read is valid");
                let _ = model.decision(&vec![0.5; model.features]);
            }
            assert_eq!(shard.find(entry.series), Some(row));
        }
        let _ = shard.memory();
    });
});
