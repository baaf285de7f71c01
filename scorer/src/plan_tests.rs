use super::*;
use crate::models::Entry;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, UInt32Array};
use arrow::datatypes::{Float64Type, Int16Type, Int64Type, UInt32Type};
use fleetscore_kernel::{Kernel, Model};
use fleetscore_schemas::SeriesName;
use fleetscore_store::SeriesRange;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Normal below `limit`: decision = limit − x.
fn below(limit: f64) -> Model {
    Model {
        features: 1,
        mean: vec![],
        scale: vec![],
        kernel: Kernel::Linear,
        support_vectors: vec![1.0],
        dual_coef: vec![-1.0],
        rho: -limit,
    }
}

/// Normal where the sum of two features is below `limit`.
fn sum_below(limit: f64) -> Model {
    Model { features: 2, support_vectors: vec![1.0, 1.0], ..below(limit) }
}

fn entry(series: u32, outcome: Result<Model, String>) -> Entry {
    let normal = outcome.as_ref().is_ok_and(|m| m.features == 1).then(|| vec![(0.0, 10.0)]);
    Entry {
        series,
        name: SeriesName::new("d", series.to_string()),
        model: format!("model_d_{series}"),
        outcome,
        normal,
    }
}

fn set_of(version: i64, features: &[Feature], entries: Vec<Entry>) -> Arc<ModelSet> {
    // In shards of a few entries, so that shards end everywhere too.
    let of =
        |entries: &[Entry]| ModelSet::from_entries(version, features.to_vec(), entries.to_vec()).unwrap();
    let shards = entries.chunks(5).flat_map(|chunk| of(chunk).shards().to_vec()).collect();
    Arc::new(ModelSet::new(version, features.to_vec(), shards).unwrap())
}

fn table(version: i64, entries: Vec<Entry>) -> Arc<ScoringTable> {
    Arc::new(ScoringTable::new(set_of(version, &[Feature::Stddev], entries)))
}

/// The value is the stddev; the mean is 1 where it is NULL.
fn batch(rows: &[(u32, Option<f64>)]) -> RecordBatch {
    let series = UInt32Array::from_iter_values(rows.iter().map(|r| r.0));
    let version = Int64Array::from_iter_values(rows.iter().map(|r| i64::from(r.0) + 100));
    let mut columns: Vec<ArrayRef> = vec![Arc::new(series), Arc::new(version)];
    for f in Feature::ALL {
        let values: Float64Array =
            rows.iter().map(|r| if f == Feature::Stddev { r.1 } else { Some(r.1.unwrap_or(1.0)) }).collect();
        columns.push(Arc::new(values));
    }
    RecordBatch::try_new(window_schema(), columns).unwrap()
}

fn windows(rows: &[(u32, Option<f64>)], split: usize) -> Windows {
    let batches: Vec<_> = rows.chunks(split.max(1)).map(|c| Ok(batch(c))).collect();
    stream::iter(batches).boxed()
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Row {
    status: String,
    prediction: Option<i16>,
    decision: Option<f64>,
    value: Option<f64>,
    version: i64,
    model: Option<String>,
    normal: Option<String>,
    set: Option<i64>,
}

async fn rows(predictions: Result<Predictions, ScoreError>) -> BTreeMap<u32, Row> {
    let mut out = BTreeMap::new();
    let mut last = None;
    let batches: Vec<RecordBatch> = predictions.unwrap().try_collect().await.unwrap();
    for b in &batches {
        assert_eq!(b.schema(), prediction_schema());
        for i in 0..b.num_rows() {
            let series = b.column(0).as_primitive::<UInt32Type>().value(i);
            assert!(last.is_none_or(|l| l < series), "ascending");
            last = Some(series);
            let f = |c: usize| {
                let c = b.column(c).as_primitive::<Float64Type>();
                c.is_valid(i).then(|| c.value(i))
            };
            let s = |c: usize| {
                let c = b.column(c).as_string::<i32>();
                c.is_valid(i).then(|| c.value(i).to_owned())
            };
            let p = b.column(2).as_primitive::<Int16Type>();
            let set = b.column(8).as_primitive::<Int64Type>();
            let row = Row {
                status: s(4).unwrap(),
                prediction: p.is_valid(i).then(|| p.value(i)),
                decision: f(3),
                value: f(1),
                version: b.column(6).as_primitive::<Int64Type>().value(i),
                model: s(5),
                normal: s(7),
                set: set.is_valid(i).then(|| set.value(i)),
            };
            out.insert(series, row);
        }
    }
    out
}

fn row(status: &str, value: Option<f64>, version: i64, model: Option<u32>) -> Row {
    let model = model.map(|s| format!("model_d_{s}"));
    Row { status: status.into(), value, version, model, ..Row::default() }
}

#[tokio::test]
async fn each_status_has_its_row() {
    let table = table(
        7,
        vec![
            entry(1, Ok(below(10.0))),
            entry(2, Ok(below(10.0))),
            entry(3, Ok(below(10.0))),
            entry(4, Err("refused".into())),
            entry(5, Err("refused".into())),
            entry(9, Ok(below(10.0))),
        ],
    );
    // Series 2 and 5 are silent; 0 and 8 have no model; 3 lies exactly on the edge.
    let data = [(0, Some(4.0)), (1, Some(4.0)), (3, Some(10.0)), (4, Some(4.0)), (8, Some(4.0)), (9, None)];
    let got = rows(score(&table, &Scored::all(&[Feature::Stddev], false), windows(&data, 2))).await;
    let four = Some(4.0);
    let decided = |decision, prediction| (Some(decision), Some(prediction));
    let (d, p) = decided(6.0, 0);
    let normal = Row { decision: d, prediction: p, ..row("scored", four, 101, Some(1)) };
    let (d, p) = decided(0.0, 1);
    let edge = row("scored", Some(10.0), 103, Some(3));
    let edge = Row { decision: d, prediction: p, normal: Some("0 … 10".into()), ..edge };
    let expected: BTreeMap<u32, Row> = [
        (0, row("no_model", four, 100, None)),
        (1, normal),
        (2, row("no_data", None, 0, Some(2))),
        (3, edge),
        (4, row("model_error", four, 104, Some(4))),
        (5, row("model_error", None, 0, Some(5))),
        (8, row("no_model", four, 108, None)),
        (9, row("input_invalid", None, 109, Some(9))),
    ]
    .into();
    assert_eq!(got, expected);

    let got = rows(score(&table, &Scored::all(&[Feature::Stddev], true), windows(&data, 100))).await;
    let only: Vec<u32> = got.into_keys().collect();
    assert_eq!(only, [0, 1, 3, 4, 8, 9], "rows for series with data alone");
}

#[tokio::test]
async fn a_set_for_other_features_fails_its_models_and_says_so() {
    let entries = || vec![entry(1, Ok(below(10.0))), entry(2, Ok(below(10.0)))];
    let table = table(3, entries());
    // As many as it takes, or more.
    for (wanted, names) in [(&[Feature::Mean][..], "mean"), (&[Feature::Mean, Feature::Max], "mean, max")] {
        let got =
            rows(score(&table, &Scored::all(wanted, false), windows(&[(1, Some(4.0)), (3, Some(4.0))], 9)))
                .await;
        assert_eq!(got[&1], row("model_error", Some(4.0), 101, Some(1)));
        assert_eq!((got[&2].status.as_str(), got[&3].status.as_str()), ("no_data", "no_model"));
        let text = table.misfit(wanted).unwrap();
        assert!(
            text.contains("takes the features stddev,") && text.contains(&format!("is {names}:")),
            "{text}"
        );
        assert_eq!(table.pins_misfit(wanted), None);
    }
    assert_eq!(table.misfit(&[Feature::Stddev]), None);

    let pinned = set_of(2, &[Feature::Max], entries());
    let own = set_of(3, &[Feature::Stddev], entries());
    let table = Arc::new(ScoringTable::with_pins(own, vec![(2, pinned)]));
    let wanted = [Feature::Stddev];
    let got =
        rows(score(&table, &Scored::all(&wanted, false), windows(&[(1, Some(4.0)), (2, Some(4.0))], 9)))
            .await;
    assert_eq!((got[&1].status.as_str(), got[&2].status.as_str()), ("scored", "model_error"));
    assert_eq!(table.misfit(&wanted), None);
    let text = table.pins_misfit(&wanted).unwrap();
    assert!(text.contains("set 2 takes the features max,") && text.contains("model_pins"), "{text}");
}

#[tokio::test]
async fn pinned_series_are_scored_by_their_set_and_say_so() {
    let one = [Feature::Mean];
    let own = set_of(3, &one, (1..=6).map(|s| entry(s, Ok(below(10.0)))).collect());
    let old =
        set_of(2, &one, vec![entry(1, Ok(below(1.0))), entry(4, Ok(below(1.0))), entry(9, Ok(below(1.0)))]);
    // 2 and 5 have no model in the older set (5 sends nothing), 9 has one there alone, 6 is pinned to the set itself.
    let pins = [9, 1, 2, 4, 5].map(|s| (s, old.clone())).into_iter().chain([(6, own.clone())]).collect();
    let table = Arc::new(ScoringTable::with_pins(own, pins));
    assert_eq!(table.pinned_without_model().collect::<Vec<_>>(), [(2, 2), (5, 2)]);
    let data = [(1, Some(4.0)), (2, Some(4.0)), (3, Some(4.0)), (6, Some(4.0))];
    let got = rows(score(&table, &Scored::all(&one, false), windows(&data, 1))).await;
    let brief: Vec<_> = got.iter().map(|(s, r)| (*s, r.status.as_str(), r.decision, r.set)).collect();
    let expected = [
        (1, "scored", Some(-3.0), Some(2)),
        (2, "no_model", None, Some(2)),
        (3, "scored", Some(6.0), None),
        (4, "no_data", None, Some(2)),
        (6, "scored", Some(6.0), None),
        (9, "no_data", None, Some(2)),
    ];
    assert_eq!(brief, expected);
    let got = rows(score(&table, &Scored::all(&one, true), windows(&data, 9))).await;
    assert_eq!(got.into_keys().collect::<Vec<_>>(), [1, 2, 3, 6]);
}

#[tokio::test]
async fn anomalies_of_several_features_name_the_nearest_normal_values_up_to_a_bound() {
    let features = [Feature::Mean, Feature::Stddev];
    let n = explain::ROWS as u32 + 100;
    let entries = (0..n).map(|s| entry(s, Ok(sum_below(10.0)))).collect();
    let table = Arc::new(ScoringTable::new(set_of(1, &features, entries)));
    // Every second one is normal: 3 + 3 is below 10, 15 + 15 is not.
    let data: Vec<_> = (0..n).map(|s| (s, Some(if s % 2 == 0 { 15.0 } else { 3.0 }))).collect();
    let got = rows(score(&table, &Scored::all(&features, false), windows(&data, 100))).await;
    assert_eq!(got[&0].prediction, Some(1));
    assert_eq!((got[&1].prediction, &got[&1].normal), (Some(0), &None));
    let text = got[&0].normal.clone().unwrap();
    assert!(text.starts_with("mean 15 → ") && text.contains(", stddev 15 → "), "{text}");
    assert!(got.values().filter(|r| r.prediction == Some(1)).all(|r| r.normal.is_some()));

    // Each one anomalous: the first ones by series are explained, however the windows are cut.
    let data: Vec<_> = (0..n).map(|s| (s, Some(15.0))).collect();
    for split in [3, 1000] {
        let got = rows(score(&table, &Scored::all(&features, false), windows(&data, split))).await;
        let explained: Vec<u32> = got.iter().filter(|(_, r)| r.normal.is_some()).map(|(s, _)| *s).collect();
        assert_eq!(explained, (0..explain::ROWS as u32).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_broken_stream_is_the_stores_error() {
    let table = table(1, vec![entry(1, Ok(below(1.0)))]);
    let broken: Windows =
        stream::iter([Ok(batch(&[(1, Some(1.0))])), Err(StoreError::Unavailable { message: "gone".into() })])
            .boxed();
    let scored = score(&table, &Scored::all(&[Feature::Mean], false), broken).unwrap();
    let error = scored.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, ScoreError::Store(StoreError::Unavailable { .. })), "{error:?}");
}

#[tokio::test]
async fn windows_out_of_order_are_an_error_and_no_missing_rows() {
    let table = table(1, vec![entry(1, Ok(below(1.0)))]);
    for data in [[(2, Some(1.0)), (1, Some(1.0))], [(1, Some(1.0)), (1, Some(1.0))]] {
        for split in [1, 2] {
            let scored = score(&table, &Scored::all(&[Feature::Mean], false), windows(&data, split)).unwrap();
            let error = scored.try_collect::<Vec<_>>().await.unwrap_err();
            assert!(error.to_string().contains("ascend"), "{error}");
        }
    }
}

#[tokio::test]
async fn nothing_joined_with_nothing_is_nothing() {
    let table = table(1, vec![]);
    assert!(rows(score(&table, &Scored::all(&[Feature::Mean], false), windows(&[], 1))).await.is_empty());
    let got = rows(score(&table, &Scored::all(&[Feature::Mean], false), windows(&[(3, Some(1.0))], 1))).await;
    assert_eq!(got[&3].status, "no_model");
}

/// What a series' row is by definition, from its window, its model and its pin.
fn defined(
    window: Option<Option<f64>>,
    own: Option<&Option<f64>>,
    pin: Option<(i64, Option<&Option<f64>>)>,
    data_only: bool,
) -> Option<(String, Option<f64>, Option<i64>)> {
    let model = pin.map_or(own, |(_, model)| model);
    if window.is_none() && (data_only || model.is_none()) {
        return None;
    }
    let (status, decision) = match (model, window) {
        (None, _) => ("no_model", None),
        (Some(None), _) => ("model_error", None),
        (Some(_), None) => ("no_data", None),
        (Some(_), Some(None)) => ("input_invalid", None),
        (Some(Some(limit)), Some(Some(x))) => ("scored", Some(below(*limit).decision(&[x]))),
    };
    Some((status.to_owned(), decision, pin.map(|(version, _)| version)))
}

/// Limits by series; `None` is a refused model.
fn models() -> impl Strategy<Value = BTreeMap<u32, Option<f64>>> {
    prop::collection::btree_map(0_u32..90, prop::option::weighted(0.9, -20.0_f64..20.0), 0..90)
}

fn of_models(version: i64, models: &BTreeMap<u32, Option<f64>>) -> Arc<ModelSet> {
    let entry = |(s, limit): (&u32, &Option<f64>)| entry(*s, limit.map(below).ok_or("refused".to_owned()));
    set_of(version, &[Feature::Stddev], models.iter().map(entry).collect())
}

/// Some series of a table.
fn of(selection: &Selection, data_only: bool) -> Scored<'static> {
    Scored { selection: selection.clone(), ..Scored::all(&[Feature::Stddev], data_only) }
}

/// A range from one series up to before another.
fn range(from: u32, until: Option<u32>) -> SeriesRange {
    SeriesRange { from, until }
}

#[tokio::test]
async fn three_stale_series_of_a_thousand_are_three_rows() {
    let all: Vec<_> = (1..=1000).filter(|s| *s != 700).map(|s| entry(s, Ok(below(10.0)))).collect();
    let pinned = set_of(2, &[Feature::Stddev], vec![entry(3, Ok(below(1.0))), entry(500, Ok(below(1.0)))]);
    let own = set_of(3, &[Feature::Stddev], all);
    // Pins of series that are not stale stay out as well.
    let table = Arc::new(ScoringTable::with_pins(own, vec![(3, pinned.clone()), (500, pinned)]));
    let ids = Some([41, 500, 700].into());
    let stale = Selection { range: SeriesRange::ALL, ids };
    // The window of 500 is gone; 700 has no model.
    let got = rows(score(&table, &of(&stale, false), windows(&[(41, Some(4.0)), (700, Some(4.0))], 9))).await;
    let brief: Vec<_> = got.iter().map(|(s, r)| (*s, r.status.as_str(), r.set)).collect();
    assert_eq!(brief, [(41, "scored", None), (500, "no_data", Some(2)), (700, "no_model", None)]);
    let got = rows(score(&table, &of(&stale, true), windows(&[(700, Some(4.0))], 9))).await;
    assert_eq!(got.into_keys().collect::<Vec<_>>(), [700], "rows for series with data alone");
    let nothing = Selection { range: SeriesRange::ALL, ids: Some([].into()) };
    assert!(rows(score(&table, &of(&nothing, false), windows(&[], 9))).await.is_empty());
}

#[tokio::test]
async fn a_window_beside_the_selection_is_an_error_and_no_row() {
    let table = table(1, (1..=20).map(|s| entry(s, Ok(below(1.0)))).collect());
    let ids = Selection { range: SeriesRange::ALL, ids: Some([4, 6].into()) };
    for (selection, at) in [
        (Selection::of(range(5, Some(10))), 4),
        (Selection::of(range(5, Some(10))), 10),
        (Selection::of(range(5, Some(5))), 5),
        (Selection::of(range(5, None)), 1),
        (ids, 5),
    ] {
        let scored = score(&table, &of(&selection, false), windows(&[(at, Some(1.0))], 1)).unwrap();
        let error = scored.try_collect::<Vec<_>>().await.unwrap_err();
        assert!(error.to_string().contains("other series than the selected"), "{error}");
    }
}

#[tokio::test]
async fn what_was_scored_is_measured() {
    let table = table(1, (1..=20).map(|s| entry(s, Ok(below(1.0)))).collect());
    let scored = Scored::all(&[Feature::Stddev], false);
    let out = score(&table, &scored, windows(&[(1, Some(1.0))], 1)).unwrap();
    let batches: Vec<RecordBatch> = scored.meter.written(out).try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 20);
    let phases = scored.meter.phases();
    assert!(phases.score_us > 0 && phases.open_us == 0, "{phases:?}");
}

/// Ranges and ids whose borders lie everywhere.
fn selections() -> impl Strategy<Value = Selection> {
    let ids = prop::option::of(prop::collection::btree_set(0_u32..95, 0..40));
    (0_u32..95, prop::option::of(0_u32..95), ids).prop_map(|(from, until, ids)| {
        let range = range(from, until.map(|u| u.max(from)));
        let ids = ids.map(|ids| ids.into_iter().filter(|s| range.contains(*s)).collect());
        Selection { range, ids }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn a_selection_is_what_all_series_have_less_the_others(
        data in prop::collection::btree_map(0_u32..90, prop::option::weighted(0.9, -20.0_f64..20.0), 0..90),
        own in models(),
        pinned in models(),
        pins in prop::collection::btree_set(0_u32..90, 0..12),
        split in 1_usize..20,
        selection in selections(),
        data_only: bool,
    ) {
        let other = of_models(2, &pinned);
        let with = pins.iter().map(|s| (*s, other.clone())).collect();
        let table = Arc::new(ScoringTable::with_pins(of_models(7, &own), with));
        let input: Vec<_> = data.iter().map(|(s, v)| (*s, *v)).collect();
        let some: Vec<_> = input.iter().copied().filter(|(s, _)| selection.contains(*s)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut all, got) = runtime.block_on(async {
            let all = Scored::all(&[Feature::Stddev], data_only);
            let all = rows(score(&table, &all, windows(&input, split))).await;
            (all, rows(score(&table, &of(&selection, data_only), windows(&some, split))).await)
        });
        all.retain(|s, _| selection.contains(*s));
        prop_assert_eq!(got, all);
    }

    #[test]
    fn shards_of_any_cut_add_up_to_the_whole(
        data in prop::collection::btree_map(1_u32..90, prop::option::weighted(0.9, -20.0_f64..20.0), 0..90),
        own in models(),
        cuts in prop::collection::btree_set(1_u32..95, 0..8),
        data_only: bool,
    ) {
        let table = Arc::new(ScoringTable::new(of_models(7, &own)));
        let cuts: Vec<_> = cuts.into_iter().collect();
        let input: Vec<_> = data.iter().map(|(s, v)| (*s, *v)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (all, parts) = runtime.block_on(async {
            let all = Scored::all(&[Feature::Stddev], data_only);
            let all = rows(score(&table, &all, windows(&input, 9))).await;
            let (mut parts, mut count) = (BTreeMap::new(), 0);
            for range in SeriesRange::cut(&cuts) {
                let some: Vec<_> = input.iter().copied().filter(|(s, _)| range.contains(*s)).collect();
                let part = rows(score(&table, &of(&Selection::of(range), data_only), windows(&some, 9))).await;
                count += part.len();
                parts.extend(part);
            }
            assert_eq!(count, parts.len(), "no row twice");
            (all, parts)
        });
        prop_assert_eq!(parts, all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn the_plan_says_what_the_definition_says(
        data in prop::collection::btree_map(0_u32..90, prop::option::weighted(0.9, -20.0_f64..20.0), 0..90),
        own in models(),
        pinned in prop::array::uniform2(models()),
        pins in prop::collection::btree_map(0_u32..90, 0_usize..2, 0..12),
        split in 1_usize..20,
        data_only: bool,
    ) {
        let sets = [of_models(2, &pinned[0]), of_models(3, &pinned[1])];
        let with = pins.iter().map(|(s, set)| (*s, sets[*set].clone())).collect();
        let table = Arc::new(ScoringTable::with_pins(of_models(7, &own), with));
        let input: Vec<_> = data.iter().map(|(s, v)| (*s, *v)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let got = runtime.block_on(async {
            rows(score(&table, &Scored::all(&[Feature::Stddev], data_only), windows(&input, split))).await
        });
        for s in 0..90 {
            let pin = pins.get(&s).map(|set| (*set as i64 + 2, pinned[*set].get(&s)));
            let expected = defined(data.get(&s).copied(), own.get(&s), pin, data_only);
            let found = got.get(&s);
            prop_assert_eq!(found.map(|r| (r.status.clone(), r.decision, r.set)), expected, "series {}", s);
            let Some(r) = found else { continue };
            prop_assert_eq!(r.value, data.get(&s).copied().flatten());
            prop_assert_eq!(r.version, if data.contains_key(&s) { i64::from(s) + 100 } else { 0 });
            prop_assert_eq!(r.prediction, r.decision.map(|d| i16::from(!(d > 0.0))));
            prop_assert_eq!(r.normal.as_deref(), (r.prediction == Some(1)).then_some("0 … 10"));
            let name = (r.status != "no_model").then(|| format!("model_d_{s}"));
            prop_assert_eq!(r.model.clone(), name);
        }
        prop_assert!(got.keys().all(|s| *s < 90));
    }
}
