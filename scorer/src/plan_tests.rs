use super::*;
use crate::models::Entry;
use fleetscore_kernel::{Kernel, Model};
use fleetscore_schemas::SeriesName;
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

fn entry(series: u32, outcome: Result<Model, String>) -> Entry {
    Entry {
        series,
        name: SeriesName::new("d", series.to_string()),
        model: format!("model_d_{series}"),
        outcome,
        normal: Some(vec![(0.0, 10.0)]),
    }
}

fn windows(rows: &[(u32, Option<f64>)], split: usize) -> Windows {
    let batch = |rows: &[(u32, Option<f64>)]| {
        let series = UInt32Array::from_iter_values(rows.iter().map(|r| r.0));
        let version = arrow::array::Int64Array::from_iter_values(rows.iter().map(|r| i64::from(r.0) + 100));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(series), Arc::new(version)];
        for f in Feature::ALL {
            let values: Float64Array = rows
                .iter()
                .map(|r| if f == Feature::Stddev { r.1 } else { Some(r.1.unwrap_or(1.0)) })
                .collect();
            columns.push(Arc::new(values));
        }
        RecordBatch::try_new(window_schema(), columns).unwrap()
    };
    let batches: Vec<_> = rows.chunks(split.max(1)).map(|c| Ok(batch(c))).collect();
    stream::iter(batches).boxed()
}

/// series → (status, prediction, decision, value, version, model, normal_range)
type Rows =
    BTreeMap<u32, (String, Option<i16>, Option<f64>, Option<f64>, i64, Option<String>, Option<String>)>;

fn rows(scored: &Scored) -> Rows {
    let mut out = Rows::new();
    let mut last = None;
    for b in &scored.batches {
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
            let p = b.column(2).as_primitive::<arrow::datatypes::Int16Type>();
            let version = b.column(6).as_primitive::<Int64Type>().value(i);
            let row = (s(4).unwrap(), p.is_valid(i).then(|| p.value(i)), f(3), f(1), version, s(5), s(7));
            out.insert(series, row);
        }
    }
    out
}

fn set_of(version: i64, entries: Vec<Entry>) -> Arc<ModelSet> {
    Arc::new(ModelSet::from_entries(version, vec![Feature::Mean], entries).unwrap())
}

#[tokio::test]
async fn each_status_has_its_row() {
    let set = set_of(
        7,
        vec![
            entry(1, Ok(below(10.0))),
            entry(2, Ok(below(10.0))),
            entry(3, Ok(below(10.0))),
            entry(4, Err("refused".into())),
            entry(5, Err("refused".into())),
            entry(6, Err("refused".into())),
            entry(9, Ok(below(10.0))),
        ],
    );
    let table = Arc::new(ScoringTable::new(set));
    // Series 2 and 5 are silent; 0 and 8 have no model; 3 lies exactly on the edge.
    let data = [
        (0, Some(4.0)),
        (1, Some(4.0)),
        (3, Some(10.0)),
        (4, Some(4.0)),
        (6, Some(4.0)),
        (8, Some(4.0)),
        (9, None),
    ];
    let got = rows(&score(&table, &[Feature::Stddev], false, windows(&data, 2)).await.unwrap());
    let model = |s: u32| Some(format!("model_d_{s}"));
    let expected: Rows = [
        (0, ("no_model".into(), None, None, Some(4.0), 100, None, None)),
        (1, ("scored".into(), Some(0), Some(6.0), Some(4.0), 101, model(1), None)),
        (2, ("no_data".into(), None, None, None, 0, model(2), None)),
        (3, ("scored".into(), Some(1), Some(0.0), Some(10.0), 103, model(3), Some("0 … 10".into()))),
        (4, ("model_error".into(), None, None, Some(4.0), 104, model(4), None)),
        (5, ("model_error".into(), None, None, None, 0, model(5), None)),
        (6, ("model_error".into(), None, None, Some(4.0), 106, model(6), None)),
        (8, ("no_model".into(), None, None, Some(4.0), 108, None, None)),
        (9, ("input_invalid".into(), None, None, None, 109, model(9), None)),
    ]
    .into();
    assert_eq!(got, expected);

    let scored = score(&table, &[Feature::Stddev], true, windows(&data, 100)).await.unwrap();
    let only: Vec<u32> = rows(&scored).into_keys().collect();
    assert_eq!(only, [0, 1, 3, 4, 6, 8, 9], "rows for series with data alone");
    let c = scored.counts;
    assert_eq!((c.scored, c.anomalies, c.no_data), (2, 1, 0));
    assert_eq!((c.no_model, c.model_error, c.input_invalid), (2, 2, 1));
}

#[tokio::test]
async fn a_broken_stream_is_the_stores_error() {
    let table = Arc::new(ScoringTable::new(set_of(1, vec![entry(1, Ok(below(1.0)))])));
    let broken: Windows = stream::iter([Err(StoreError::Unavailable { message: "gone".into() })]).boxed();
    let error = score(&table, &[Feature::Mean], false, broken).await.unwrap_err();
    assert!(matches!(error, ScoreError::Store(StoreError::Unavailable { .. })), "{error:?}");
}

#[tokio::test]
async fn nothing_joined_with_nothing_is_nothing() {
    let table = Arc::new(ScoringTable::new(set_of(1, vec![])));
    let scored = score(&table, &[Feature::Mean], false, windows(&[], 1)).await.unwrap();
    assert!(rows(&scored).is_empty());
    let scored = score(&table, &[Feature::Mean], false, windows(&[(3, Some(1.0))], 1)).await.unwrap();
    assert_eq!(rows(&scored)[&3].0, "no_model");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_plan_says_what_a_loop_says(
        data in prop::collection::btree_map(0_u32..60, -20.0_f64..20.0, 0..60),
        models in prop::collection::btree_map(0_u32..60, -20.0_f64..20.0, 0..60),
        split in 1_usize..20,
        data_only: bool,
    ) {
        let entries = models.iter().map(|(s, limit)| entry(*s, Ok(below(*limit)))).collect();
        let table = Arc::new(ScoringTable::new(set_of(1, entries)));
        let input: Vec<_> = data.iter().map(|(s, v)| (*s, Some(*v))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let scored = runtime.block_on(score(&table, &[Feature::Mean], data_only, windows(&input, split))).unwrap();
        let got = rows(&scored);
        let expected: Vec<u32> = (0..60)
            .filter(|s| data.contains_key(s) || !data_only && models.contains_key(s))
            .collect();
        prop_assert_eq!(got.keys().copied().collect::<Vec<_>>(), expected);
        for (s, (status, prediction, decision, value, ..)) in got {
            match (data.get(&s), models.get(&s)) {
                (Some(v), Some(limit)) => {
                    let d = below(*limit).decision(&[*v]);
                    prop_assert_eq!(decision.map(f64::to_bits), Some(d.to_bits()));
                    prop_assert_eq!(prediction, Some(i16::from(!(d > 0.0))));
                    prop_assert_eq!(value, Some(*v));
                }
                (Some(_), None) => prop_assert_eq!(status.as_str(), "no_model"),
                (None, _) => prop_assert_eq!(status.as_str(), "no_data"),
            }
        }
    }
}
