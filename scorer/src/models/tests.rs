use super::*;
use crate::blobs::Blobs;
use arrow::array::{Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::time::{Edges, Interval, Timestamp, US_PER_S};
use fleetscore_store::{Advance, Checkpoint, MemoryStore, ModelSetRow, Outcome, PaneSettings, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod import;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/tests/data")
}

pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: MemoryStore,
    pub(super) blobs: Blobs,
}

impl Place {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        store.migrate().await.unwrap();
        let blobs = Blobs::open(dir.path().join("blobs").to_str().unwrap(), &BTreeMap::new()).unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        Self { dir, store, blobs }
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.path().join("in").join(name), bytes).unwrap();
    }

    fn fixture(&self, name: &str, fixture: &str) {
        self.file(name, &std::fs::read(data().join(fixture)).unwrap());
    }

    fn options(&self) -> ImportOptions {
        ImportOptions {
            sources: vec![self.dir.path().join("in").display().to_string()],
            created_by: "a test".into(),
            ..ImportOptions::default()
        }
    }

    async fn import(&self, options: &ImportOptions) -> Result<ImportReport> {
        import(&self.store, &self.blobs, options).await
    }

    pub(super) async fn rows(&self) -> Vec<ModelSetRow> {
        self.store.model_sets().await.unwrap()
    }

    async fn everything(&self) -> (Vec<ModelSetRow>, Vec<crate::blobs::Listed>, usize) {
        let listed = self.blobs.list("models").await.unwrap();
        (self.rows().await, listed, self.store.series().await.unwrap().len())
    }
}

/// As a set keeps it: with 0 and 1 where nothing is subtracted or divided by.
fn filled(mut model: fleetscore_kernel::Model) -> fleetscore_kernel::Model {
    model.mean.resize(model.features, 0.0);
    model.scale.resize(model.features, 1.0);
    model
}

#[tokio::test]
async fn what_is_imported_is_what_is_loaded_to_the_bit() {
    let p = Place::new().await;
    p.fixture("model_pump_1_temp", "1.2_rbf_p3.pkl");
    p.fixture("model_a_b.pkl", "1.9_bare_scale_p4.pkl");
    p.fixture("model_a_c.joblib", "1.9_rbf.joblib");
    p.file("README.md", b"not a model");
    p.file(".hidden_x_y", b"");
    let report = p.import(&p.options()).await.unwrap();
    assert_eq!((report.imported, report.refused.len(), report.skipped.len()), (3, 0, 2));
    let rows = p.rows().await;
    let row = &rows[0];
    assert_eq!((row.version, row.active, row.models, row.refused), (report.version, true, 3, 0));
    assert_eq!((row.origin.as_str(), row.created_by.as_str()), ("import", "a test"));
    let set = load(&p.blobs, &p.store, row).await.unwrap();
    assert_eq!(set.version, report.version);
    assert!(set.entries().is_sorted_by_key(|e| e.series));
    let names: Vec<String> = set.entries().map(|e| format!("{} {}", e.name, e.model)).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(sorted, ["a/b model_a_b", "a/c model_a_c", "pump_1/temp model_pump_1_temp"]);
    for entry in set.entries() {
        let fixture = match entry.name.sensor.as_str() {
            "temp" => "1.2_rbf_p3.pkl",
            "b" => "1.9_bare_scale_p4.pkl",
            _ => "1.9_rbf.joblib",
        };
        let model =
            fleetscore_formats::pickle::read_model(&std::fs::read(data().join(fixture)).unwrap()).unwrap();
        assert_eq!(entry.outcome, Ok(filled(model.clone())));
        assert_eq!(entry.normal, fleetscore_kernel::normal_intervals(&model));
        let id = p.store.lookup(std::slice::from_ref(&entry.name)).await.unwrap()[0];
        assert_eq!(id, Some(entry.series));
    }
    let verified = verify(&p.blobs, row).await.unwrap();
    assert_eq!((verified.scored, verified.problems), (3, vec![]));
    assert_eq!(verified.manifest.features, ["mean"]);
}

#[tokio::test]
async fn a_refused_import_changes_nothing() {
    let p = Place::new().await;
    p.fixture("model_a_b", "1.2_rbf_p3.pkl");
    let first = p.import(&p.options()).await.unwrap();
    let before = p.everything().await;
    p.file("model_new_x", b"cos\nsystem\n(S'true'\ntR.");
    p.fixture("model_new_y", "1.9_two_rbf_p5.pkl");
    p.fixture("model_new_z", "1.9_rbf_p4.pkl");
    let cut = std::fs::read(data().join("1.9_rbf_p4.pkl")).unwrap();
    p.file("model_new_cut", &cut[..900]);
    let e = p.import(&p.options()).await.unwrap_err();
    assert_eq!((e.domain(), e.is_transient()), (Domain::External, false));
    let text = e.to_string();
    for named in
        ["model_new_x", "`os.system` at offset 0", "model_new_y", "takes 2 features", "cut short", "byte"]
    {
        assert!(text.contains(named), "{named}: {text}");
    }
    assert!(!text.contains("model_new_z"));
    assert_eq!(p.everything().await, before);
    // With allow_partial they are entries that say why.
    let options = ImportOptions { allow_partial: true, activate: false, ..p.options() };
    let report = p.import(&options).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (2, 3));
    let rows = p.rows().await;
    assert_eq!((rows[0].models, rows[0].refused, rows[0].active), (2, 3, false));
    assert!(rows[1].active && rows[1].version == first.version);
    let set = load(&p.blobs, &p.store, &rows[0]).await.unwrap();
    let bad = set.entries().find(|e| e.name.sensor == "x").unwrap();
    assert!(bad.outcome.as_ref().unwrap_err().contains("os.system"));
    assert_eq!(bad.normal, None);
    assert_eq!(verify(&p.blobs, &rows[0]).await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn two_files_for_one_series_are_refused_both() {
    let p = Place::new().await;
    p.fixture("model_a_b", "1.2_rbf_p3.pkl");
    p.fixture("model_a_b.pkl", "1.9_rbf_p4.pkl");
    p.fixture("model_a_c", "1.9_rbf_p4.pkl");
    let e = p.import(&p.options()).await.unwrap_err();
    let ModelError::Refused { refused, .. } = &e else { panic!("{e}") };
    assert_eq!(refused.len(), 2);
    assert!(e.to_string().contains("is for a/b, and so is"), "{e}");
    let report = p.import(&ImportOptions { allow_partial: true, ..p.options() }).await.unwrap();
    assert_eq!((report.imported, report.refused.len()), (1, 2));
}

#[tokio::test]
async fn nothing_to_import_is_an_error() {
    let p = Place::new().await;
    let partial = ImportOptions { allow_partial: true, ..p.options() };
    assert!(p.import(&partial).await.unwrap_err().to_string().contains("is an empty folder"));
    p.file("README.md", b"");
    assert!(p.import(&partial).await.unwrap_err().to_string().contains("no model to import"));
    p.file("model_a_b", b"");
    p.file("other", b"");
    assert!(
        matches!(p.import(&partial).await, Err(ModelError::Refused { refused, .. }) if refused.len() == 1)
    );
    let file = |name: &str| ImportOptions {
        sources: vec![p.dir.path().join("in").join(name).display().to_string()],
        ..p.options()
    };
    let e = p.import(&file("other")).await.unwrap_err().to_string();
    assert!(e.contains("not of the pattern"), "{e}");
    let e = p.import(&file("absent")).await.unwrap_err();
    assert!(e.domain() == Domain::User && e.to_string().contains("absent"), "{e}");
    assert_eq!(p.everything().await, (vec![], vec![], 0));
    let e = p.import(&ImportOptions { pattern: "x".into(), ..p.options() }).await.unwrap_err().to_string();
    assert!(e.contains("{device}"), "{e}");
}

#[tokio::test]
async fn more_series_than_allowed_are_refused_before_anything_is_written() {
    let p = Place::new().await;
    for i in 0..4 {
        p.fixture(&format!("model_a_{i}"), "1.2_rbf_p3.pkl");
    }
    let e = p.import(&ImportOptions { max_series: 3, ..p.options() }).await.unwrap_err();
    assert!(e.to_string().contains("`max_series`"), "{e}");
    assert_eq!(p.everything().await, (vec![], vec![], 0));
    p.import(&ImportOptions { max_series: 4, ..p.options() }).await.unwrap();
}

#[tokio::test]
async fn models_come_from_blob_urls_too() {
    let p = Place::new().await;
    p.fixture("model_a_b", "1.2_rbf_p3.pkl");
    let url = format!("file://{}", p.dir.path().join("in").display());
    let report = p.import(&ImportOptions { sources: vec![url], ..p.options() }).await.unwrap();
    assert_eq!(report.imported, 1);
}

#[tokio::test]
async fn a_damaged_set_is_named() {
    let p = Place::new().await;
    p.fixture("model_a_b", "1.2_rbf_p3.pkl");
    p.import(&p.options()).await.unwrap();
    let row = p.rows().await.remove(0);
    let part = p.blobs.local_root().unwrap().join(&row.path).join("part-00000.arrow");
    let good = std::fs::read(&part).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&part, &bad).unwrap();
    let e = load(&p.blobs, &p.store, &row).await.unwrap_err();
    assert!(matches!(e, ModelError::Damaged { .. }) && e.to_string().contains("checksum"), "{e}");
    let report = verify(&p.blobs, &row).await.unwrap();
    assert_eq!((report.scored, report.problems.len()), (0, 1));
    std::fs::remove_file(&part).unwrap();
    let e = load(&p.blobs, &p.store, &row).await.unwrap_err().to_string();
    assert!(e.contains("part-00000.arrow is missing"), "{e}");
    std::fs::write(&part, &good).unwrap();
    load(&p.blobs, &p.store, &row).await.unwrap();
    let e = load(&p.blobs, &p.store, &ModelSetRow { checksum: "0".into(), ..row.clone() }).await.unwrap_err();
    assert!(matches!(e, ModelError::Damaged { .. }), "{e}");
}

#[tokio::test]
async fn another_stores_blob_root_is_refused() {
    let p = Place::new().await;
    p.fixture("model_a_b", "1.2_rbf_p3.pkl");
    p.import(&p.options()).await.unwrap();
    let other = MemoryStore::default();
    other.migrate().await.unwrap();
    let e = import(&other, &p.blobs, &p.options()).await.unwrap_err();
    assert!(e.domain() == Domain::User && e.to_string().contains("`blobs`"), "{e}");
    let empty = Blobs::open(p.dir.path().join("other").to_str().unwrap(), &BTreeMap::new()).unwrap();
    let e = import(&p.store, &empty, &p.options()).await.unwrap_err();
    assert!(e.domain() == Domain::User && e.to_string().contains("`blobs`"), "{e}");
}

/// A model of one feature with two support vectors around `level`.
fn around(level: f64) -> fleetscore_kernel::Model {
    fleetscore_kernel::Model {
        features: 1,
        mean: vec![level],
        scale: vec![2.0],
        kernel: fleetscore_kernel::Kernel::Rbf { gamma: 0.5 },
        support_vectors: vec![-1.0, 1.0],
        dual_coef: vec![0.5, 0.5],
        rho: 0.3,
    }
}

fn stored(i: u32) -> format::Stored {
    let (device, sensor) = (format!("d{}", i / 10), format!("s{}", i % 10));
    let outcome = if i % 1000 == 7 { Err(format!("no {i}")) } else { Ok(around(f64::from(i))) };
    let model = format!("model_{device}_{sensor}");
    format::Stored { rows: 1 + i, ..format::Stored::new(SeriesName::new(device, sensor), model, outcome) }
}

fn new_set(entries: impl IntoIterator<Item = format::Stored>) -> registry::NewSet {
    registry::NewSet {
        entries: entries.into_iter().collect(),
        features: vec![fleetscore_schemas::window::Feature::Mean],
        pattern: DEFAULT_PATTERN.into(),
        origin: "import",
        max_series: 1_000_000,
        activate: true,
        ..registry::NewSet::default()
    }
}

#[tokio::test]
async fn a_large_set_is_cut_sorted_and_found_by_series() {
    const COUNT: u32 = 70_000;
    let p = Place::new().await;
    // The store knows some of them, in another order.
    let known: Vec<SeriesName> = (0..100).rev().map(|i| stored(i * 321).name).collect();
    p.store.intern(&known, 1_000_000).await.unwrap();
    registry::add(&p.store, &p.blobs, new_set((0..COUNT).map(stored)), std::future::ready(Ok(())))
        .await
        .unwrap();
    let row = p.rows().await.remove(0);
    assert_eq!((row.models, row.refused), (69_930, 70));
    assert_eq!(row.training_rows, Some((1..=i64::from(COUNT)).sum()));
    assert_eq!(row.features, ["mean"]);
    let set = load(&p.blobs, &p.store, &row).await.unwrap();
    assert_eq!((set.len(), set.shards().len()), (COUNT as usize, 2));
    assert!(set.memory() < 125 * COUNT as usize, "{} bytes", set.memory());
    let series: Vec<u32> = set.shards().iter().flat_map(|s| s.series().iter().copied()).collect();
    assert!(series.is_sorted_by(|a, b| a < b));
    for i in (0..COUNT).step_by(777) {
        let wanted = stored(i);
        let id = p.store.lookup(std::slice::from_ref(&wanted.name)).await.unwrap()[0].unwrap();
        let (shard, at) = set.get(id).unwrap();
        assert_eq!((shard.device(at), shard.sensor(at)), (&*wanted.name.device, &*wanted.name.sensor));
        let entry = shard.entry(at);
        assert_eq!((entry.outcome, entry.rows, entry.model), (wanted.outcome, 1 + i, wanted.model));
    }
    assert!(set.get(0).is_none() && set.get(u32::MAX).is_none());
    let report = verify(&p.blobs, &row).await.unwrap();
    assert_eq!((report.scored, report.problems), (69_930, vec![]));
    assert_eq!(report.manifest.parts.len(), 2);
}

#[tokio::test]
async fn a_store_that_learnt_its_series_again_gets_each_model_by_name() {
    let p = Place::new().await;
    registry::add(&p.store, &p.blobs, new_set((0..60).map(stored)), std::future::ready(Ok(())))
        .await
        .unwrap();
    let row = p.rows().await.remove(0);
    let before = load(&p.blobs, &p.store, &row).await.unwrap();
    // Restored from before the import; half of the series were learnt again, backwards and after others.
    let restored = MemoryStore::default();
    restored.migrate().await.unwrap();
    let others = (0..5).map(|i| SeriesName::new("other", format!("{i}")));
    let names: Vec<SeriesName> = others.chain((30..60).rev().map(|i| stored(i).name)).collect();
    restored.intern(&names, 1000).await.unwrap();
    let set = load(&p.blobs, &restored, &row).await.unwrap();
    assert_eq!((set.len(), set.version), (60, before.version));
    let known = restored.series().await.unwrap();
    assert_eq!(known.len(), 65, "those that it did not know are learnt");
    for entry in set.entries() {
        let (id, name) = &known[known.iter().position(|(id, _)| *id == entry.series).unwrap()];
        assert_eq!((entry.series, &entry.name), (*id, name));
        let same = before.entries().find(|e| e.name == entry.name).unwrap();
        assert_eq!((entry.outcome, entry.normal, entry.model), (same.outcome, same.normal, same.model));
    }
    let at = |set: &ModelSet| set.entries().map(|e| e.series).collect::<Vec<_>>();
    assert_ne!(at(&set), at(&before));
    assert!(at(&set).is_sorted());
}

#[tokio::test]
async fn two_models_for_one_series_and_other_features_are_no_set() {
    let p = Place::new().await;
    let add = |new| registry::add(&p.store, &p.blobs, new, std::future::ready(Ok(())));
    let e = add(new_set([stored(1), stored(2), stored(1)])).await.unwrap_err();
    assert!(e.domain() == Domain::User && e.to_string().contains("d0/s1 has two models"), "{e}");
    let mut two = around(1.0);
    (two.features, two.mean, two.scale, two.dual_coef) = (2, vec![], vec![], vec![1.0]);
    let two = format::Stored { outcome: Ok(two), ..stored(3) };
    let e = add(new_set([two.clone()])).await.unwrap_err().to_string();
    assert!(e.contains("take 2 features, and 1 are named"), "{e}");
    let e = add(new_set([stored(1), two])).await.unwrap_err().to_string();
    assert!(e.contains("d0/s3"), "{e}");
    let wrong = format::Stored {
        outcome: Ok(fleetscore_kernel::Model { rho: f64::NAN, ..around(1.0) }),
        ..stored(4)
    };
    assert!(add(new_set([wrong])).await.unwrap_err().to_string().contains("rho"));
    assert_eq!(p.rows().await, []);
    // Refused ones before the first model, and nothing but refused ones.
    for entries in [vec![stored(7), stored(1)], vec![stored(7), stored(1007)]] {
        let count = entries.len();
        let version = add(new_set(entries)).await.unwrap();
        let row = p.rows().await.into_iter().find(|r| r.version == version).unwrap();
        let set = load(&p.blobs, &p.store, &row).await.unwrap();
        assert_eq!(set.entries().filter(|e| e.outcome.is_err()).count() as i64, row.refused);
        assert_eq!(set.len(), count);
        assert_eq!(verify(&p.blobs, &row).await.unwrap().problems, Vec::<String>::new());
    }
}

#[tokio::test]
async fn check_rows_are_the_exporters_and_a_decision_that_differs_is_named() {
    let p = Place::new().await;
    let given = vec![(vec![1.25], 99.0), (vec![3.5], 99.0), (vec![4.0], 99.0)];
    let entry = format::Stored { checks: given, ..stored(1) };
    let new = registry::NewSet { note: Some("by hand".into()), ..new_set([entry, stored(2)]) };
    registry::add(&p.store, &p.blobs, new, std::future::ready(Ok(()))).await.unwrap();
    let mut row = p.rows().await.remove(0);
    assert_eq!(row.note.as_deref(), Some("by hand"));
    let mut found = verify(&p.blobs, &row).await.unwrap().manifest;
    let folder = p.blobs.local_root().unwrap().join(&row.path);
    let name = found.parts[0].checks.as_ref().unwrap().name.clone();
    let checks = fleetscore_pack::Checks::open(std::fs::read(folder.join(&name)).unwrap().into()).unwrap();
    assert_eq!((checks.entries(), &checks.inputs()[..3]), (&[0, 0, 0, 1, 1][..], &[1.25, 3.5, 4.0][..]));
    assert_eq!(checks.decisions()[1], around(1.0).decision(&[3.5]), "our own");
    // The same set with another decision, checksums and all.
    let mut other = fleetscore_pack::ChecksBuilder::new(1);
    for (i, x) in checks.inputs().iter().enumerate() {
        let off = if i == 1 { 1e-9 } else { 0.0 };
        other.push(checks.entries()[i], &[*x], checks.decisions()[i] + off);
    }
    let bytes = other.finish().unwrap();
    found.parts[0].checks = Some(SetFile::of(name.clone(), 5, &bytes));
    std::fs::write(folder.join(&name), &bytes).unwrap();
    let text = serde_json::to_vec(&found).unwrap();
    row.checksum = Manifest::checksum(&text);
    std::fs::write(folder.join("manifest.json"), text).unwrap();
    let report = verify(&p.blobs, &row).await.unwrap();
    assert_eq!((report.scored, report.problems.len()), (2, 1));
    assert!(report.problems[0].contains("d0/s1: scores") && report.problems[0].contains("[3.5]"));
}

#[tokio::test]
async fn a_changed_manifest_is_noticed_whatever_changed() {
    let p = Place::new().await;
    let new = registry::NewSet { created_by: "ann".into(), ..new_set((0..3).map(stored)) };
    registry::add(&p.store, &p.blobs, new, std::future::ready(Ok(()))).await.unwrap();
    let row = p.rows().await.remove(0);
    let path = p.blobs.local_root().unwrap().join(&row.path).join("manifest.json");
    let good = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"mean\"", "\"max\""),
        ("model_{device}_{sensor}", "other_{device}_{sensor}"),
        ("\"ann\"", "\"bob\""),
        ("\"import\"", "\"train\""),
        ("\"created_at\": \"2", "\"created_at\": \"3"),
        ("\"training_rows\": ", "\"training_rows\": 1"),
        ("\n}", "\n }"),
        ("\n}", "\n"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        std::fs::write(&path, bad).unwrap();
        for e in [
            load(&p.blobs, &p.store, &row).await.map(|_| ()).unwrap_err(),
            verify(&p.blobs, &row).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(e, ModelError::Damaged { .. }), "{e}");
            assert!(e.to_string().contains("the checksum of manifest.json"), "{e}");
        }
    }
    // Of another version of this program, which cannot be judged by its checksum.
    for (format, what) in [(FORMAT - 1, "import or train again"), (FORMAT + 1, "newer fleetscore")] {
        let other = good.replace(&format!("\"format\": {FORMAT}"), &format!("\"format\": {format}"));
        std::fs::write(&path, other).unwrap();
        let e = load(&p.blobs, &p.store, &row).await.unwrap_err();
        assert!(matches!(e, ModelError::Usage(_)) && e.to_string().contains(what), "{e}");
    }
    std::fs::write(&path, &good).unwrap();
    let other = ModelSetRow { features: vec!["max".into()], ..row.clone() };
    let e = load(&p.blobs, &p.store, &other).await.unwrap_err().to_string();
    assert!(e.contains("features mean, its row max"), "{e}");
    assert_eq!(load(&p.blobs, &p.store, &row).await.unwrap().len(), 3);
}

#[test]
fn ranges_are_rounded_inwards() {
    let (inf, min) = (f64::INFINITY, f64::NEG_INFINITY);
    for (ranges, text) in [
        (vec![], "none"),
        (vec![(10.012_345, 14.183_99)], "10.013 … 14.183"),
        (vec![(-2.000_049, 0.5), (3.0, inf)], "-2 … 0.5, 3 … ∞"),
        (vec![(min, inf)], "−∞ … ∞"),
        (vec![(5.000_001, 5.000_002)], "5.000001 … 5.000002"),
        (vec![(123_456.7, 123_987.2)], "123460 … 123980"),
    ] {
        assert_eq!(ranges_text(&ranges), text);
    }
}

// --- training -----------------------------------------------------------------------------------------------------

pub(super) const MINUTE: i64 = 60 * US_PER_S;

/// A store with one reading a pane for each series: `value(series, pane)`.
pub(super) async fn with_panes(p: &Place, panes: &[i64], series: u32, value: impl Fn(u32, i64) -> f64) {
    let settings = PaneSettings {
        interval_us: MINUTE,
        edges: Edges::Start,
        filter: String::new(),
        value: String::new(),
        ts_unit: "ms".into(),
    };
    p.store.pin_panes(&settings).await.unwrap();
    let names: Vec<SeriesName> = (0..series).map(|i| SeriesName::new(format!("d{i}"), "s")).collect();
    let mut ids = p.store.intern(&names, 1000).await.unwrap();
    ids.sort_unstable();
    let partition = TopicPartition::new("t", 0);
    p.store.add_partitions("k", &[(partition.clone(), 0)]).await.unwrap();
    let claims = p.store.claim("k", "me", std::slice::from_ref(&partition)).await.unwrap();
    let keys: Vec<(i64, u32)> =
        panes.iter().flat_map(|pane| ids.iter().map(move |id| (pane * MINUTE, id.unwrap()))).collect();
    let values: Vec<f64> = keys.iter().map(|(t, id)| value(*id, t / MINUTE)).collect();
    let times =
        || TimestampMicrosecondArray::from_iter_values(keys.iter().map(|(t, _)| *t)).with_timezone("UTC");
    let numbers = || Float64Array::from(values.clone());
    let deltas = RecordBatch::try_new(
        fleetscore_schemas::delta::schema(),
        vec![
            std::sync::Arc::new(UInt32Array::from_iter_values(keys.iter().map(|(_, id)| *id))),
            std::sync::Arc::new(times()),
            std::sync::Arc::new(Int64Array::from(vec![1; keys.len()])),
            std::sync::Arc::new(numbers()),
            std::sync::Arc::new(Float64Array::from(vec![0.0; keys.len()])),
            std::sync::Arc::new(numbers()),
            std::sync::Arc::new(numbers()),
            std::sync::Arc::new(times()),
            std::sync::Arc::new(numbers()),
            std::sync::Arc::new(times()),
            std::sync::Arc::new(numbers()),
        ],
    )
    .unwrap();
    let advance = Advance {
        partition,
        epoch: claims[0].epoch,
        from: claims[0].next_offset,
        to: claims[0].next_offset + keys.len() as i64,
        watermark: None,
        floor: claims[0].floor,
        last_broker_time: None,
        end_offset: None,
        quiet_at: None,
    };
    let checkpoint = Checkpoint {
        source: "k".into(),
        owner: "me".into(),
        advances: vec![advance],
        deltas,
        dead_letters: vec![],
        losses: vec![],
        replayed: vec![],
        notices: Vec::new(),
    };
    assert_eq!(p.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
}

pub(super) fn wave(id: u32, pane: i64) -> f64 {
    100.0 * f64::from(id) + (pane as f64 * 0.754_877_666).fract() + (pane as f64 * 0.569_840_29).fract()
}

pub(super) fn train_options() -> TrainOptions {
    TrainOptions { nu: 0.05, created_by: "a test".into(), ..TrainOptions::new(MINUTE) }
}

pub(super) const START: i64 = 25_000_000; // minutes since the epoch: 2017

#[tokio::test]
async fn training_on_windows_gives_a_set_that_scores() {
    let p = Place::new().await;
    // Two days, eight years apart.
    let later = START + 8 * 365 * 1440;
    let panes: Vec<i64> = (START..START + 150).chain(later..later + 150).collect();
    with_panes(&p, &panes, 5, wave).await;
    let options = TrainOptions { memory: 2 * 1000 * 8 * 2, ..train_options() }; // two series a pass
    let report = train(&p.store, &p.blobs, &options).await.unwrap();
    assert_eq!((report.trained, report.windows, report.failed.len()), (5, 5 * 300, 0));
    assert_eq!(report.range.unwrap().start.0, START * MINUTE);
    let row = p.rows().await.remove(0);
    assert_eq!((row.origin.as_str(), row.active, row.trained_on), ("train", true, report.range));
    let set = load(&p.blobs, &p.store, &row).await.unwrap();
    assert_eq!(set.len(), 5);
    for entry in set.entries() {
        let model = entry.outcome.as_ref().unwrap();
        let outside = panes
            .iter()
            .filter(|t| fleetscore_kernel::is_anomaly(model.decision(&[wave(entry.series, **t)])))
            .count();
        assert!(outside <= 15, "{outside} of 300 outside");
        let level = 100.0 * f64::from(entry.series);
        assert!(fleetscore_kernel::is_anomaly(model.decision(&[level + 10.0])));
        let normal = entry.normal.as_ref().unwrap();
        assert!(normal.iter().any(|(a, b)| *a > level - 1.0 && *b < level + 3.0), "{normal:?}");
    }
}

#[tokio::test]
async fn training_takes_the_windows_asked_for() {
    let p = Place::new().await;
    let panes: Vec<i64> = (START..START + 200).collect();
    with_panes(&p, &panes, 3, wave).await;
    let at = |minute: i64| Some(Timestamp((START + minute) * MINUTE));
    // Windows of five panes, whole ones inside the range.
    let aligned = START.div_euclid(5) * 5 - START;
    let options = TrainOptions {
        window_us: 5 * MINUTE,
        from: at(3),
        to: at(133),
        series: Some(regex::Regex::new("^d[12]/").unwrap()),
        features: vec![
            fleetscore_schemas::window::Feature::Mean,
            fleetscore_schemas::window::Feature::Stddev,
        ],
        activate: false,
        ..train_options()
    };
    let report = train(&p.store, &p.blobs, &options).await.unwrap();
    assert_eq!(aligned, 0, "the test's start is a window's");
    assert_eq!(report.range, Some(Interval { start: at(5).unwrap(), end: at(130).unwrap() }));
    assert_eq!((report.trained, report.windows), (2, 2 * 25));
    let row = p.rows().await.remove(0);
    assert!(!row.active);
    let set = load(&p.blobs, &p.store, &row).await.unwrap();
    assert!(set.entries().all(|e| e.outcome.as_ref().unwrap().features == 2 && e.normal.is_none()));
}

#[tokio::test]
async fn training_that_cannot_be_says_why_and_changes_nothing() {
    let p = Place::new().await;
    let told = |e: ModelError| {
        assert!(matches!(e, ModelError::Usage(_) | ModelError::Failed(_)), "{e}");
        e.to_string()
    };
    assert!(told(train(&p.store, &p.blobs, &train_options()).await.unwrap_err()).contains("no windows"));
    with_panes(&p, &(START..START + 10).collect::<Vec<_>>(), 2, wave).await;
    for (options, named) in [
        (train_options(), "10 windows"),
        (TrainOptions { nu: 0.0, ..train_options() }, "nu is 0"),
        (TrainOptions { max_rows: 100_000, ..train_options() }, "max_rows"),
        (TrainOptions { window_us: 90 * US_PER_S, ..train_options() }, "multiple"),
        (TrainOptions { features: vec![], ..train_options() }, "features"),
        (TrainOptions { to: Some(Timestamp(0)), ..train_options() }, "no whole window"),
        (TrainOptions { series: Some(regex::Regex::new("zzz").unwrap()), ..train_options() }, "no series"),
    ] {
        let text = told(train(&p.store, &p.blobs, &options).await.unwrap_err());
        assert!(text.contains(named), "{named}: {text}");
    }
    assert_eq!(p.rows().await, []);
    assert_eq!(p.blobs.list("").await.unwrap(), []);
}
