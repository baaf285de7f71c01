//! A fleet does what its shares say.

use super::*;
use crate::expect::{Oracle, Rules};
use crate::{Edges, model_lines, predictions, windows};
use std::collections::BTreeSet;

const FUTURE_US: i64 = 3_000_000_000_000_000; // 2065

/// Nothing out of the ordinary.
fn quiet(seed: u64) -> Fleet {
    let none = Fleet { late: 0.0, too_late: 0.0, fast_clock: 0.0, slow_clock: 0.0, ..Fleet::default() };
    Fleet { seed, silent: 0.0, burst: 0.0, bad: 0.0, devices: 8, panes: 20, ..none }
}

fn judged(fleet: &Fleet) -> Oracle {
    let mut oracle = Oracle::new(Rules {
        pane_us: fleet.pane_us,
        edges: Edges::Start,
        max_disorder_us: fleet.max_disorder_us,
        allowed_lateness_us: fleet.allowed_lateness_us,
        future_us: FUTURE_US,
    });
    for (offset, message) in (0..).zip(fleet.messages()) {
        assert!(message.partition < fleet.partitions);
        oracle.take(message.partition, offset, &message);
    }
    oracle
}

fn letters(oracle: &Oracle, code: &str) -> usize {
    oracle.letters().iter().filter(|l| l.code == code).count()
}

fn readings(fleet: &Fleet) -> Vec<Reading> {
    let records = fleet.messages().flat_map(|m| m.records);
    records
        .filter_map(|r| match r {
            Record::Reading { reading, .. } => Some(reading),
            Record::Bad { .. } => None,
        })
        .collect()
}

const SHAPES: [Shapes; 5] =
    [Shapes::Mixed, Shapes::Single, Shapes::Packed(7), Shapes::Lines(3), Shapes::Wide];

#[test]
fn the_same_seed_gives_the_same_messages() {
    let fleet = Fleet::default();
    let all: Vec<Message> = fleet.messages().collect();
    assert!(all.len() > 100, "{}", all.len());
    assert!(fleet.messages().eq(all.iter().cloned()));
    assert!(!Fleet { seed: 2, ..fleet.clone() }.messages().eq(all));
}

#[test]
fn a_quiet_fleet_is_never_late_and_has_the_readings_that_were_asked_for() {
    for (seed, shapes) in (0..).zip(SHAPES) {
        let fleet = Fleet { shapes, ..quiet(seed) };
        let oracle = judged(&fleet);
        assert_eq!((oracle.late(), oracle.letters()), (0, &[][..]), "{shapes:?}");
        let asked = f64::from(fleet.devices * fleet.sensors * fleet.panes * fleet.readings_per_pane);
        let share = oracle.readings() as f64 / asked;
        assert!((0.95..1.05).contains(&share), "{shapes:?}: {share} of {asked}");
        let readings = readings(&fleet);
        assert_eq!(oracle.windows(), windows(&readings, fleet.pane_us, fleet.pane_us, Edges::Start));
        assert!(
            readings.iter().all(|r| r.ts_us % 1000 == 0 && r.ts_us >= fleet.start_us - fleet.max_disorder_us)
        );
        assert!(readings.iter().any(|r| r.ts_us % fleet.pane_us == 0), "a reading on the edge of a pane");
        assert!(readings.iter().all(|r| (r.value * 8.0).fract() == 0.0));
        let out_of_order = readings.windows(2).filter(|r| r[1].ts_us < r[0].ts_us).count();
        assert!(out_of_order > readings.len() / 12, "{shapes:?}: {out_of_order}");
        let mut ties: BTreeMap<_, BTreeSet<u64>> = BTreeMap::new();
        for r in &readings {
            ties.entry((&r.device, &r.sensor, r.ts_us)).or_default().insert(r.value.to_bits());
        }
        assert!(ties.values().any(|values| values.len() > 1), "one time, two values");
    }
}

#[test]
fn each_share_does_what_it_says_and_nothing_else() {
    let counted = |fleet: &Fleet| {
        let oracle = judged(fleet);
        let others = ["too_late", "future_skew"].map(|code| letters(&oracle, code));
        (oracle.readings(), oracle.late(), others, oracle.letters().len())
    };
    for (seed, shapes) in (10..).zip(SHAPES) {
        let base = Fleet { shapes, ..quiet(seed) };
        let (plain, ..) = counted(&base);
        let (_, late, others, _) = counted(&Fleet { late: 0.1, ..base.clone() });
        assert!(late > plain / 20 && others == [0, 0], "late: {late} {others:?}");
        let (_, late, others, all) = counted(&Fleet { too_late: 0.1, ..base.clone() });
        assert!(
            late == 0 && others[0] > plain as usize / 80 && others[0] == all,
            "too late: {late} {others:?}"
        );
        let (_, late, others, all) = counted(&Fleet { fast_clock: 0.1, ..base.clone() });
        assert!(late == 0 && others[1] > plain as usize / 80 && others[1] == all, "fast: {late} {others:?}");
        let (n, late, others, _) = counted(&Fleet { slow_clock: 0.3, ..base.clone() });
        assert!(late <= n && others == [0, 0], "slow: {late} {others:?}");
        let (n, ..) = counted(&Fleet { silent: 0.4, ..base.clone() });
        assert!((plain / 3..plain * 3 / 4).contains(&n), "silent: {n} of {plain}");
        let (n, ..) = counted(&Fleet { burst: 0.05, ..base.clone() });
        assert!(n > plain * 2, "burst: {n} of {plain}");
        let (n, late, others, all) = counted(&Fleet { bad: 0.1, ..base.clone() });
        assert!(n < plain && late == 0 && others == [0, 0] && all > plain as usize / 60, "bad: {n}, {all}");
        let (n, _, _, all) = counted(&Fleet { bad: 1.0, ..base.clone() });
        assert!(n < plain / 3 && all > plain as usize / 60, "all bad: {n}, {all}");
    }
    let slow: u64 = (0..20).map(|seed| judged(&Fleet { slow_clock: 0.5, ..quiet(seed) }).late()).sum();
    assert!(slow > 1000, "{slow}");
}

#[test]
fn spans_and_positions_lie_in_their_message() {
    for (seed, shapes) in (0..).zip(SHAPES.repeat(4)) {
        for message in (Fleet { seed, shapes, bad: 0.2, ..Fleet::default() }).messages() {
            assert!(!message.records.is_empty());
            for record in &message.records {
                let (Record::Reading { position, span, .. } | Record::Bad { position, span, .. }) = record;
                assert!(span.start <= span.end && span.end <= message.payload.len(), "{message:?}");
                assert!(*position >= 0 || *span == (0..message.payload.len()), "{message:?}");
            }
            assert_eq!(message.value().is_none(), message.is_tombstone());
        }
    }
}

#[test]
fn models_leave_some_series_out_and_both_labels_come_up() {
    for exact in [true, false] {
        let fleet = Fleet { exact, ..quiet(3) };
        let models = fleet.models();
        let series: BTreeSet<_> = fleet.series().collect();
        assert_eq!(series.len(), 24);
        assert!(series.iter().any(|s| !models.contains_key(s)));
        assert!(models.keys().any(|s| !series.contains(s)));
        let windows = judged(&fleet).windows();
        let labels: Vec<_> = predictions(&windows, &models).into_values().collect();
        let anomalies = labels.iter().filter(|p| p.label == 1).count();
        assert!(
            (labels.len() / 20..labels.len() / 2).contains(&anomalies),
            "{anomalies} of {}",
            labels.len()
        );
        // A decision near zero might fall to either side.
        assert!(labels.iter().all(|p| p.decision.abs() > 1e-9));
        let lines = model_lines(&models);
        assert_eq!(lines.lines().count(), models.len());
        for (line, (key, numbers)) in lines.lines().zip(&models) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((line["device"].as_str(), line["sensor"].as_str()), (Some(&*key.0), Some(&*key.1)));
            assert_eq!(line["support_vectors"][0][0].as_f64(), Some(numbers.vectors[0]));
            assert_eq!(line["rho"].as_f64(), Some(numbers.rho));
        }
    }
}
