//! Writes the seeds of the targets `pack`, `checks` and `manifest`: `cargo run --example seeds` in this folder.

use fleetscore_pack::{ChecksBuilder, Entry, Manifest, Part, SET_FORMAT, SetFile, ShardBuilder};
use std::error::Error;
use std::path::Path;

const PATTERN: &str = "model_{device}_{sensor}";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = root.join("../scorer/formats/tests/data");
    let seeds = root.join("seeds");
    for target in ["pack", "checks", "manifest"] {
        std::fs::create_dir_all(seeds.join(target))?;
    }
    for features in [1, 2] {
        let text = std::fs::read(data.join("models.jsonl"))?;
        let models = fleetscore_formats::read(&text, "models.jsonl")?.into_iter().flatten();
        let models: Vec<_> = models.filter(|m| m.model.features == features).collect();
        let (mut shard, mut checks) = (ShardBuilder::new(features, PATTERN), ChecksBuilder::new(features));
        for (i, found) in models.into_iter().enumerate() {
            let series = 3 * i as u32;
            for (x, decision) in &found.checks {
                checks.push(series, x, *decision);
            }
            let entry = Entry {
                series,
                device: found.device.unwrap_or_default(),
                sensor: found.sensor.unwrap_or_default(),
                model: if i == 0 { "mine".into() } else { format!("model_d{features}_s{i}") },
                outcome: if i == 2 { Err("was refused".into()) } else { Ok(found.model) },
                normal: (features == 1 && i != 2).then(|| vec![(1.0, 2.0), (3.0, 4.5)]),
                rows: 60,
            };
            shard.push(&entry)?;
        }
        std::fs::write(seeds.join(format!("pack/{features}.arrow")), shard.finish()?)?;
        std::fs::write(seeds.join(format!("checks/{features}.arrow")), checks.finish()?)?;
    }
    std::fs::write(seeds.join("pack/empty.arrow"), ShardBuilder::new(1, PATTERN).finish()?)?;
    let file = |name: &str, rows| SetFile::of(name.to_owned(), rows, name.as_bytes());
    let manifest = Manifest {
        format: SET_FORMAT,
        version: 7,
        origin: "import".into(),
        created_by: "me".into(),
        created_at: "2026-01-01T00:00:00Z".into(),
        features: vec!["mean".into()],
        pattern: PATTERN.into(),
        models: 5,
        refused: 1,
        trained_on: Some(("2026-01-01T00:00:00Z".into(), "2026-01-02T00:00:00Z".into())),
        training_rows: Some(300),
        parts: vec![
            Part { file: file("shard-0.arrow", 4), series: (0, 9), checks: Some(file("checks-0.arrow", 8)) },
            Part { file: file("shard-1.arrow", 2), series: (10, 12), checks: None },
        ],
    };
    std::fs::write(seeds.join("manifest/two.json"), serde_json::to_vec_pretty(&manifest)?)?;
    Ok(())
}
