//! Trainings as a whole: resumed, sampled, in parallel, from windows and from Parquet.

use super::*;
use crate::models::tests::{MINUTE, Place, START, train_options, wave, with_panes};
use crate::models::{Entry, load};
use arrow::array::{DictionaryArray, Float32Array, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use object_store::ObjectStoreExt;
use std::sync::Mutex;

async fn entries(p: &Place, version: i64) -> Vec<Entry> {
    let row = p.rows().await.into_iter().find(|r| r.version == version).unwrap();
    load(&p.blobs, &p.store, &row).await.unwrap().entries().collect()
}

/// What an observer was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Progress>>>);

impl Told {
    fn observer(&self) -> Observer {
        let told = self.clone();
        Observer::new(move |p| told.0.lock().unwrap().push(p))
    }

    fn last_fitted(&self) -> Option<(u64, u64, u64)> {
        let told = self.0.lock().unwrap();
        told.iter().rev().find_map(|p| match p {
            Progress::Fitting { done, total, failed } => Some((*done, *total, *failed)),
            _ => None,
        })
    }
}

/// 23 series with 60 windows each, one of them without a change and one with NULL deviations only.
async fn place() -> Place {
    let p = Place::new().await;
    with_panes(&p, &(START..START + 60).collect::<Vec<_>>(), 23, |id, pane| match id {
        5 => 7.25,
        _ => wave(id, pane),
    })
    .await;
    p
}

#[tokio::test]
async fn threads_chunks_and_passes_change_no_bit() {
    let p = place().await;
    let one = TrainOptions { parallelism: 1, max_rows: 25, ..train_options() };
    let told = Told::default();
    let first =
        train(&p.store, &p.blobs, &TrainOptions { observer: told.observer(), ..one.clone() }).await.unwrap();
    assert_eq!((first.trained, first.windows, first.resumed), (23, 23 * 60, 0));
    assert_eq!(told.last_fitted(), Some((23, 23, 0)));
    let wanted = entries(&p, first.version).await;
    for (parallelism, chunk, memory) in [(4, 1000, 512 << 20), (3, 4, 512 << 20), (2, 5, 1), (1, 1, 10_000)] {
        let told = Told::default();
        let options = TrainOptions { parallelism, chunk, memory, observer: told.observer(), ..one.clone() };
        let report = train(&p.store, &p.blobs, &options).await.unwrap();
        assert_eq!(entries(&p, report.version).await, wanted, "{parallelism} {chunk} {memory}");
        let expected = TrainReport { version: report.version, ..first.clone() };
        assert_eq!(report, expected);
        assert_eq!(told.last_fitted(), Some((23, 23, 0)));
    }
    assert_eq!(p.blobs.list("models/training").await.unwrap(), []);
}

#[tokio::test]
async fn a_random_sample_is_that_of_its_seed_however_it_is_trained() {
    let p = place().await;
    let random = |seed| TrainOptions {
        sampling: Sampling::Random { seed },
        max_rows: 20,
        min_rows: 20,
        ..train_options()
    };
    let mut sets = Vec::new();
    for options in [
        random(1),
        TrainOptions { parallelism: 5, chunk: 3, memory: 5_000, ..random(1) },
        TrainOptions { series: Some(Regex::new("^d1?[0-9]/").unwrap()), ..random(1) },
        random(2),
        TrainOptions { sampling: Sampling::Even, ..random(1) },
    ] {
        let report = train(&p.store, &p.blobs, &options).await.unwrap();
        sets.push(entries(&p, report.version).await);
    }
    assert_eq!(sets[0], sets[1]);
    // A part of the series gives the same models of that part.
    assert_eq!(sets[2].len(), 20);
    assert!(sets[2].iter().all(|e| sets[0].contains(e)));
    assert!(sets[0] != sets[3] && sets[0] != sets[4]);
}

/// Trains until so many series are kept, and drops the training there: a series that is fitted and not yet kept counts
/// as little as it does after a kill.
async fn interrupted(p: &Place, options: &TrainOptions, after: u64) {
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopping = stop.clone();
    let observer = Observer::new(move |progress| {
        if matches!(progress, Progress::Kept { series } if series >= after) {
            stopping.notify_one();
        }
    });
    let options = TrainOptions { observer, ..options.clone() };
    tokio::select! {
        biased;
        () = stop.notified() => {}
        report = train(&p.store, &p.blobs, &options) => panic!("it came to its end: {report:?}"),
    }
}

#[tokio::test]
async fn an_interrupted_training_is_gone_on_with() {
    let p = place().await;
    // One of them fails: it is among what is kept.
    let options = TrainOptions { chunk: 4, parallelism: 1, features: vec![Feature::Mean], ..train_options() };
    let whole = train(&p.store, &p.blobs, &options).await.unwrap();
    let wanted = entries(&p, whole.version).await;

    interrupted(&p, &options, 8).await;
    let kept = p.blobs.list("models/training").await.unwrap();
    let chunks = kept.iter().filter(|o| o.name.contains("chunk-")).count();
    assert!((2..=4).contains(&chunks), "{kept:?}");
    assert_eq!(p.rows().await.len(), 1, "no set was added");

    // Newer windows come, and the range stays that of the beginning.
    let told = Told::default();
    let again = TrainOptions { observer: told.observer(), parallelism: 3, ..options.clone() };
    let report = train(&p.store, &p.blobs, &again).await.unwrap();
    assert_eq!(report.resumed, 4 * chunks as u64);
    assert!(
        matches!(told.0.lock().unwrap()[0], Progress::Resumed { series, .. } if series == report.resumed)
    );
    assert_eq!(entries(&p, report.version).await, wanted);
    assert_eq!(TrainReport { version: whole.version, resumed: 0, ..report }, whole);
    assert_eq!(p.blobs.list("models/training").await.unwrap(), []);
}

#[tokio::test]
async fn other_options_a_restart_and_a_broken_chunk_begin_where_they_must() {
    let p = place().await;
    let options = TrainOptions { chunk: 4, parallelism: 1, ..train_options() };
    interrupted(&p, &options, 12).await;
    // Other options are another training.
    let other = train(&p.store, &p.blobs, &TrainOptions { nu: 0.1, ..options.clone() }).await.unwrap();
    assert_eq!(other.resumed, 0);
    let kept = p.blobs.list("models/training").await.unwrap();
    assert!(kept.len() >= 4, "{kept:?}");
    // The second chunk is damaged: what is behind it is made again too.
    let path = p.blobs.path(&kept.iter().find(|o| o.name.ends_with("chunk-00000001.parquet")).unwrap().name);
    p.blobs.store.put(&path, "not what it was".into()).await.unwrap();
    interrupted(&p, &options, 8).await;
    let report = train(&p.store, &p.blobs, &options).await.unwrap();
    assert!(report.resumed >= 8 && report.resumed < 23 && report.trained == 23, "{report:?}");
    // Begun anew where that is asked for.
    interrupted(&p, &options, 8).await;
    let report = train(&p.store, &p.blobs, &TrainOptions { restart: true, ..options }).await.unwrap();
    assert_eq!((report.resumed, report.trained), (0, 23));
    assert_eq!(p.blobs.list("models/training").await.unwrap(), []);
}

#[tokio::test]
async fn a_resumed_training_keeps_the_range_it_began_with_and_reads_windows_as_they_are() {
    let p = place().await;
    let options = TrainOptions { chunk: 4, parallelism: 1, ..train_options() };
    let before = train(&p.store, &p.blobs, &options).await.unwrap();
    interrupted(&p, &options, 8).await;
    // Late readings change half of the windows, and newer windows come.
    with_panes(&p, &(START + 30..START + 70).collect::<Vec<_>>(), 23, |id, pane| 3.0 * wave(id, pane)).await;
    let report = train(&p.store, &p.blobs, &options).await.unwrap();
    let done = report.resumed as usize;
    assert!((8..23).contains(&done), "{done}");
    assert_eq!((report.range, report.windows), (before.range, before.windows));
    let end = before.range.map(|r| r.end);
    let after = train(&p.store, &p.blobs, &TrainOptions { to: end, ..options.clone() }).await.unwrap();
    let (old, new) = (entries(&p, before.version).await, entries(&p, after.version).await);
    assert!(old.iter().zip(&new).all(|(a, b)| a != b));
    // What was done stays, the rest is fitted to what there is now.
    assert_eq!(entries(&p, report.version).await, [&old[..done], &new[done..]].concat());
    // Nothing of it is left for the next one.
    let next = train(&p.store, &p.blobs, &options).await.unwrap();
    assert_eq!((next.resumed, next.windows), (0, 23 * 70));
}

#[tokio::test]
async fn two_at_once_make_whole_sets_or_say_that_there_is_another() {
    let p = place().await;
    let options = TrainOptions { chunk: 2, parallelism: 1, ..train_options() };
    let whole = train(&p.store, &p.blobs, &options).await.unwrap();
    let wanted = entries(&p, whole.version).await;
    for (begun, restart) in [(false, false), (true, false), (true, true)] {
        if begun {
            interrupted(&p, &options, 8).await;
        }
        let other = TrainOptions { restart, ..options.clone() };
        let (one, two) = tokio::join!(train(&p.store, &p.blobs, &options), train(&p.store, &p.blobs, &other));
        let mut sets = 0;
        for report in [one, two] {
            match report {
                Ok(report) => {
                    sets += 1;
                    assert_eq!(entries(&p, report.version).await, wanted);
                }
                Err(e) => assert!(e.to_string().contains("another training"), "{e}"),
            }
        }
        if sets == 0 {
            // Begun in the same moment, each took the job from the other; the same command makes the set.
            let report = train(&p.store, &p.blobs, &options).await.unwrap();
            assert_eq!(entries(&p, report.version).await, wanted);
        }
        assert_eq!(p.blobs.list("models/training").await.unwrap(), []);
    }
    // Of different options, both.
    let other = TrainOptions { nu: 0.2, ..options.clone() };
    let (one, two) = tokio::join!(train(&p.store, &p.blobs, &options), train(&p.store, &p.blobs, &other));
    assert_eq!(entries(&p, one.unwrap().version).await, wanted);
    assert_ne!(entries(&p, two.unwrap().version).await, wanted);
    assert_eq!(p.blobs.list("models/training").await.unwrap(), []);
}

#[tokio::test]
async fn a_series_that_fails_is_told_of_and_does_not_keep_the_others() {
    let p = place().await;
    // So few steps that only what does not vary converges.
    let options = TrainOptions { max_iterations: 3, tolerance: 1e-6, chunk: 5, ..train_options() };
    let report = train(&p.store, &p.blobs, &options).await.unwrap();
    assert_eq!((report.trained, report.failed.len()), (1, 22));
    assert!(report.failed.iter().all(|(_, why)| why.contains("3 steps")), "{:?}", report.failed);
    assert!(
        report.warnings.len() == 1 && report.warnings[0].1.contains("hardly vary"),
        "{:?}",
        report.warnings
    );
    assert_eq!(p.blobs.list("models/training").await.unwrap(), []);
}

fn path(p: &Place, name: &str) -> String {
    p.dir.path().join("in").join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_exported_trains_the_same_models() {
    let p = place().await;
    let at = |minute: i64| Some(Timestamp((START + minute) * MINUTE));
    for (sampling, features, max_rows, to) in [
        (Sampling::Even, vec![Feature::Mean], 1000, None),
        (Sampling::Even, vec![Feature::Mean, Feature::Max], 21, at(50)),
        (Sampling::Random { seed: 9 }, vec![Feature::Min], 30, None),
    ] {
        let options = TrainOptions { sampling, features, max_rows, to, ..train_options() };
        let out = path(&p, "rows.parquet");
        // Several passes, several batches.
        let few = TrainOptions { memory: 20_000, ..options.clone() };
        let exported = export_training(&p.store, &few, &out).await.unwrap();
        let each = max_rows.min(if to.is_some() { 50 } else { 60 }) as u64;
        assert_eq!((exported.series, exported.rows), (23, 23 * each));
        let from_store = train(&p.store, &p.blobs, &options).await.unwrap();
        let wanted = entries(&p, from_store.version).await;
        for (chunk, memory) in [(1000, 512 << 20), (4, 20_000)] {
            let options = TrainOptions { parquet: vec![out.clone()], chunk, memory, ..options.clone() };
            let report = train(&p.store, &p.blobs, &options).await.unwrap();
            assert_eq!(entries(&p, report.version).await, wanted);
            // A sample may miss the last windows.
            let (found, all) = (report.range.unwrap(), from_store.range.unwrap());
            assert!(found == all || (max_rows < 60 && found.start >= all.start && found.end <= all.end));
            assert_eq!(report.windows, exported.rows);
        }
    }
}

/// Writes a file of plain columns.
fn write(p: &Place, name: &str, columns: Vec<(&str, arrow::array::ArrayRef)>) -> String {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = path(p, name);
    std::fs::create_dir_all(std::path::Path::new(&file).parent().unwrap()).unwrap();
    let target = std::fs::File::create(&file).unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(target, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    file
}

#[tokio::test]
async fn files_of_others_are_read_whatever_their_types_and_order() {
    let p = Place::new().await;
    let value = |s: usize, i: usize| ((s * 100 + i) as f64 * 0.618_033_988).fract() as f32;
    let rows = |series: std::ops::Range<usize>| -> Vec<(usize, usize)> {
        (0..40).flat_map(|i| series.clone().map(move |s| (s, i))).collect()
    };
    let text = |rows: &[(usize, usize)]| rows.iter().map(|(s, _)| format!("dev{s}")).collect::<Vec<_>>();
    // Rows of a window together, dictionaries, f32, a column nobody asked for; then one file more in a folder below.
    let one = rows(0..3);
    write(
        &p,
        "set/a.parquet",
        vec![
            ("mean", Arc::new(Float32Array::from_iter_values(one.iter().map(|(s, i)| value(*s, *i))))),
            ("note", Arc::new(StringArray::from(text(&one)))),
            (
                "device",
                Arc::new(text(&one).iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>()),
            ),
            ("sensor", Arc::new(StringArray::from(vec!["s"; one.len()]))),
        ],
    );
    let two = rows(3..5);
    write(
        &p,
        "set/b/b.parquet",
        vec![
            ("device", Arc::new(StringArray::from(text(&two)))),
            ("sensor", Arc::new(StringArray::from(vec!["s"; two.len()]))),
            (
                "mean",
                Arc::new(Float64Array::from_iter_values(two.iter().map(|(s, i)| f64::from(value(*s, *i))))),
            ),
        ],
    );
    std::fs::write(path(&p, "set/readme.txt"), "not Parquet").unwrap();
    let options = TrainOptions { parquet: vec![path(&p, "set")], ..train_options() };
    let report = train(&p.store, &p.blobs, &options).await.unwrap();
    assert_eq!((report.trained, report.windows, report.range), (5, 200, None));
    let by_folder = entries(&p, report.version).await;
    assert_eq!(by_folder[3].name, SeriesName::new("dev3", "s"));
    // Straight from the numbers.
    for (s, entry) in by_folder.iter().enumerate() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(value(s, i))).collect();
        let fitted = fleetscore_fit::fit(
            &values,
            1,
            &fleetscore_fit::FitOptions { nu: options.nu, ..fleetscore_fit::FitOptions::default() },
        );
        assert_eq!(entry.outcome, Ok(fitted.unwrap().model));
    }
    // The same through blob storage, as a folder and as a file.
    let url = |name: &str| format!("file://{}", path(&p, name));
    for sources in [vec![url("set")], vec![url("set/a.parquet"), url("set/b/b.parquet")]] {
        let options = TrainOptions { parquet: sources, chunk: 2, memory: 1, ..options.clone() };
        let report = train(&p.store, &p.blobs, &options).await.unwrap();
        assert_eq!(entries(&p, report.version).await, by_folder);
    }
}

#[tokio::test]
async fn files_that_cannot_be_trained_on_say_why() {
    let p = Place::new().await;
    let names = |n: &[&'static str]| -> arrow::array::ArrayRef { Arc::new(StringArray::from(n.to_vec())) };
    let numbers = || -> arrow::array::ArrayRef { Arc::new(Float64Array::from(vec![1.0, 2.0])) };
    let good = write(
        &p,
        "good.parquet",
        vec![("device", names(&["a", "a"])), ("sensor", names(&["s", "s"])), ("mean", numbers())],
    );
    let lacks = write(&p, "lacks.parquet", vec![("device", names(&["a", "a"])), ("mean", numbers())]);
    let text = write(
        &p,
        "text.parquet",
        vec![("device", names(&["a", "a"])), ("sensor", names(&["s", "s"])), ("mean", names(&["x", "1"]))],
    );
    let bad_name = write(
        &p,
        "name.parquet",
        vec![("device", names(&["a", "\u{1}"])), ("sensor", names(&["s", "s"])), ("mean", numbers())],
    );
    std::fs::write(path(&p, "junk.parquet"), "PAR1 and no more").unwrap();
    std::fs::create_dir(path(&p, "empty")).unwrap();
    let from = Some(Timestamp(0));
    for (source, from, named) in [
        (good.clone(), None, "2 windows"),
        (good, from, "window_start"),
        (lacks, None, "no column `sensor`"),
        (text, None, "1 windows"), // `x` is no number, and so no row
        (bad_name, None, "control characters"),
        (path(&p, "junk.parquet"), None, "cannot be read"),
        (path(&p, "empty"), None, "no .parquet file"),
        (path(&p, "nowhere"), None, "cannot be read"),
    ] {
        let options = TrainOptions { parquet: vec![source.clone()], from, ..train_options() };
        let e = train(&p.store, &p.blobs, &options).await.unwrap_err();
        let expected = matches!(e, ModelError::Usage(_) | ModelError::Failed(_));
        assert!(expected && e.to_string().contains(named), "{source}: {e}");
    }
    assert_eq!(p.blobs.list("").await.unwrap(), []);
}

#[test]
fn passes_are_cut_by_what_fits_into_memory() {
    let listed = |rows: &[u64]| -> Vec<Listed> {
        let one = |(key, rows): (usize, &u64)| Listed {
            key: key as u64,
            name: SeriesName::new("d", "s"),
            rows: *rows,
        };
        rows.iter().enumerate().map(one).collect()
    };
    let options = |memory| TrainOptions { memory, max_rows: 100, ..TrainOptions::new(MINUTE) };
    let size = |rows| Sample::bytes(Sampling::Even, rows, 100, 1);
    assert_eq!(size(10_000), size(200), "twice the most is kept");
    assert!(size(10) < size(20));
    let ten = listed(&[50; 10]);
    assert_eq!(passes(&ten, &options(10 * size(50))), 1);
    assert_eq!(passes(&ten, &options(5 * size(50))), 2);
    assert_eq!(passes(&ten, &options(3 * size(50))), 4);
    assert_eq!(passes(&ten, &options(1)), 10, "one at least");
    assert_eq!(passes(&[], &options(1)), 0);
    // What 512 MiB hold, as the module says.
    let options = TrainOptions::new(MINUTE);
    let hold = |rows| options.memory / Sample::bytes(Sampling::Even, rows, options.max_rows, 1);
    assert_eq!((hold(200) / 1_000, hold(1 << 40) / 1_000), (127, 13));
}
