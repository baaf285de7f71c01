//! Data to run on: the reference's, with its golden results, where they are at hand; seeded data of our own always.

use fleetscore_oracle::{ModelNumbers, Reading};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the reference's data and golden results are, if they are here: `FLEETSCORE_REFERENCE`, or beside the
/// repository.
pub fn reference_folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference");
    let folder = std::env::var_os("FLEETSCORE_REFERENCE").map_or(beside, PathBuf::from);
    folder.join("sensor_data.csv").exists().then(|| folder.canonicalize().expect("a folder that exists"))
}

/// Readings with the models to score them.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Short name for the test's title.
    pub name: &'static str,
    /// A CSV file of the readings, as `send --csv` takes it.
    pub csv: PathBuf,
    /// A folder of scikit-learn pickles.
    pub models: PathBuf,
    /// The readings, in file order.
    pub readings: Vec<Reading>,
    /// The models' numbers by (device, sensor).
    pub numbers: BTreeMap<(String, String), ModelNumbers>,
}

/// The reference's data.
pub fn reference() -> Option<Dataset> {
    let folder = reference_folder()?;
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("models.json")).expect("models.json"))
            .expect("JSON");
    let csv = folder.join("sensor_data.csv");
    Some(Dataset {
        name: "reference",
        readings: read_csv(&csv),
        csv,
        numbers: fleetscore_oracle::reference_numbers(&json),
        models: folder.join("models"),
    })
}

/// Readings of a CSV file with the columns `TS,Device,Sensor,Value`.
pub fn read_csv(path: &Path) -> Vec<Reading> {
    let mut reader = csv::Reader::from_path(path).expect("the CSV file opens");
    reader
        .records()
        .map(|r| {
            let r = r.expect("a CSV row");
            let ts = chrono::NaiveDateTime::parse_from_str(&r[0], "%Y-%m-%d %H:%M:%S%.f").expect("a time");
            Reading {
                ts_us: ts.and_utc().timestamp_micros(),
                device: r[1].to_owned(),
                sensor: r[2].to_owned(),
                value: r[3].parse().expect("a number"),
            }
        })
        .collect()
}

/// Writes readings as a CSV file.
pub fn write_csv(path: &Path, readings: &[Reading]) {
    let mut writer = csv::Writer::from_path(path).expect("a CSV file");
    writer.write_record(["TS", "Device", "Sensor", "Value"]).expect("written");
    for r in readings {
        let ts = chrono::DateTime::from_timestamp_micros(r.ts_us).expect("a time of our own");
        let ts = ts.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
        writer.write_record([&ts, &r.device, &r.sensor, &r.value.to_string()]).expect("written");
    }
    writer.flush().expect("written");
}

/// All datasets at hand: the reference's where it is here, and ours.
pub fn datasets() -> Vec<Dataset> {
    reference().into_iter().chain([seeded()]).collect()
}

/// Seeded readings of six series over four hours, with stretches off their level, on a five-second grid of which
/// each series fills about a third; the models are scikit-learn's (tests/data/make_models.py).
pub fn seeded() -> Dataset {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let json = std::fs::read(folder.join("models.json")).expect("tests/data/models.json");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let mut random = fastrand::Rng::with_seed(2026);
    let mut readings = Vec::new();
    let mut numbers = BTreeMap::new();
    let text = |v: &serde_json::Value| v.as_str().expect("a text").to_owned();
    let float = |v: &serde_json::Value| v.as_f64().expect("a number");
    let floats =
        |v: &serde_json::Value| v.as_array().expect("a list").iter().map(float).collect::<Vec<f64>>();
    let start = 1_767_225_600_000_000; // 2026-01-01T00:00:00Z
    for model in json.as_array().expect("a list") {
        let (device, sensor) = (text(&model["device"]), text(&model["sensor"]));
        let (level, spread) = (float(&model["level"]), float(&model["spread"]));
        for slot in 0..2880 {
            if random.u32(0..100) >= 36 || (device == "press-2" && (300..420).contains(&slot)) {
                continue; // press-2 is silent for ten minutes
            }
            let noise = (0..4).map(|_| random.f64() - 0.5).sum::<f64>() * spread;
            let off = if (slot / 60) % 5 == 3 { 4.0 * spread } else { 0.0 };
            let value = ((level + noise + off) * 100.0).round() / 100.0;
            let ts_us = start + slot * 5_000_000;
            readings.push(Reading { ts_us, device: device.clone(), sensor: sensor.clone(), value });
        }
        let model = ModelNumbers {
            mean: float(&model["mean"]),
            scale: float(&model["scale"]),
            gamma: float(&model["gamma"]),
            vectors: floats(&model["vectors"]),
            coefficients: floats(&model["coefficients"]),
            rho: float(&model["rho"]),
        };
        numbers.insert((device, sensor), model);
    }
    readings.sort_by(|a, b| (a.ts_us, &a.device, &a.sensor).cmp(&(b.ts_us, &b.device, &b.sensor)));
    // One file for all tests of this run, beside what the build made.
    let csv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("seeded.csv");
    static WRITTEN: std::sync::Once = std::sync::Once::new();
    WRITTEN.call_once(|| write_csv(&csv, &readings));
    Dataset { name: "seeded", csv, models: folder.join("models"), readings, numbers }
}
