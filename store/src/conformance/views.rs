//! The views that users query say what the trait says. The store in memory has none.

use super::fixture::*;
use crate::*;
use fleetscore_schemas::codes::DeadLetterCode;
use fleetscore_schemas::status::{RunCause, RunState};
use fleetscore_schemas::time::Edges;

super::list![
    the_view_windows_shows_what_is_stored,
    a_schedules_view_merges_panes,
    ready_is_what_the_watermarks_say,
    ready_at_an_edge_that_belongs_to_the_window,
    ready_by_quiet_and_by_silence,
    what_a_schedule_dealt_with_stays_ready,
    predictions_are_stale_by_version,
    views_hide_what_crosses_the_floor,
    the_views_have_the_documented_columns,
    the_view_schedules_tells_the_settings,
    the_views_of_a_run_tell_its_shards_and_steps,
    what_was_passed_over_is_among_the_fires,
    the_views_of_the_roster_name_the_series,
    losses_are_recorded_with_the_position,
    a_query_reads_and_nothing_else,
];

macro_rules! needs_sql {
    ($store:expr) => {
        if $store.kind() == StoreKind::Memory {
            return;
        }
    };
}

async fn rows(store: &dyn Store, sql: &str) -> Vec<Vec<Cell>> {
    store.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).rows
}

/// A number, whatever the dialect calls it; a boolean is 0 or 1.
fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Null => None,
        Cell::Bool(b) => Some(f64::from(u8::from(*b))),
        Cell::Int(i) => Some(*i as f64),
        Cell::Float(f) => Some(*f),
        Cell::Text(t) => Some(t.parse().unwrap_or_else(|_| panic!("`{t}` is no number"))),
    }
}

async fn numbers(store: &dyn Store, sql: &str) -> Vec<Vec<Option<f64>>> {
    rows(store, sql).await.iter().map(|r| r.iter().map(number).collect()).collect()
}

const COLUMNS: &str = "mean, readings, sum, stddev, min, max, first, last";

async fn the_view_windows_shows_what_is_stored(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    let (a, b) = (s.series[0], s.series[1]);
    s.commit(&[(0, a, &[(1, 0.1), (2, 0.2), (3, 0.4)]), (0, b, &[(1, 1.0 / 3.0)])]).await;
    s.commit(&[(0, a, &[(4, 0.7)])]).await;
    let sql = format!("SELECT {COLUMNS}, version FROM windows ORDER BY window_start, device, sensor");
    let got = numbers(&*s.store, &sql).await;
    let stored = windows(&*s.store, span(0, 1)).await;
    for (row, id) in got.iter().zip([a, b]) {
        let wanted = &stored[&id];
        assert_eq!(row[8], Some(wanted.version as f64));
        assert_eq!(row[..8], wanted.values, "bit by bit, also the mean and the deviation");
    }
    assert_eq!(got.len(), 2);
    let names = rows(&*s.store, "SELECT device, sensor FROM windows ORDER BY device").await;
    assert_eq!(names[1], [Cell::Text("d1".into()), Cell::Text("s".into())]);
}

async fn a_schedules_view_merges_panes(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    s.store.put_schedule(&ScheduleSpec { hop_us: 2 * MINUTE, ..schedule("hopping", 4) }).await.unwrap();
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let mut random = Numbers(5);
    for minute in 0..9 {
        for id in s.series.clone().into_iter().take(2 + minute as usize % 2) {
            let value = 1e6 + random.below(1000) as f64 / 3.0;
            s.commit(&[(minute, id, &[(random.below(1000) as i64, value), (5000, value / 2.0)])]).await;
        }
    }
    let sql = format!("SELECT {COLUMNS}, version FROM windows_hopping ORDER BY window_start, device, sensor");
    let mut got = numbers(&*s.store, &sql).await.into_iter();
    for start in [-2, 0, 2, 4, 6, 8] {
        for (id, wanted) in windows(&*s.store, span(start, start + 4)).await {
            let row = got.next().unwrap_or_else(|| panic!("no window {start} of {id}"));
            assert_eq!(row[8], Some(wanted.version as f64), "window {start} of {id}");
            for (i, value) in wanted.values.iter().enumerate() {
                match (value, row[i]) {
                    // Everything but the sum and what is made from it is exact.
                    (Some(w), Some(g)) if matches!(i, 0 | 2) => assert!((w - g).abs() <= 1e-14 * w.abs()),
                    (Some(w), Some(g)) if i == 3 => assert!((w - g).abs() <= 1e-9 * w.abs(), "{w} {g}"),
                    (w, g) => assert_eq!(*w, g, "column {i} of window {start} of {id}"),
                }
            }
        }
    }
    assert_eq!(got.next(), None);
    let refused = s.store.query("SELECT * FROM windows_default").await;
    assert!(refused.is_err(), "a schedule over single panes needs no view of its own");
}

/// `ready` of the panes in order, from `windows`.
async fn ready(store: &dyn Store) -> Vec<bool> {
    let got = numbers(store, "SELECT ready FROM windows ORDER BY window_start").await;
    got.iter().map(|r| r[0] == Some(1.0)).collect()
}

async fn set_watermark(s: &mut Stream, i: usize, watermark: Timestamp) {
    let mut checkpoint = s.checkpoint(i, deltas(&[]));
    checkpoint.advances[0].watermark = Some(watermark);
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    s.claims[i].next_offset += 1;
}

async fn ready_is_what_the_watermarks_say(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 2).await;
    s.store.put_schedule(&schedule("two", 2)).await.unwrap();
    for minute in 0..4 {
        s.commit(&[(minute, s.series[0], &[(1, 1.0)])]).await;
    }
    assert_eq!(ready(&*s.store).await, [false; 4], "no watermark yet");
    set_watermark(&mut s, 0, at(3)).await;
    assert_eq!(ready(&*s.store).await, [false; 4], "the other partition has none");
    set_watermark(&mut s, 1, at(2).plus_us(-1)).await;
    assert_eq!(ready(&*s.store).await, [true, false, false, false]);
    set_watermark(&mut s, 1, at(2)).await;
    assert_eq!(ready(&*s.store).await, [true, true, false, false], "at its end a window is passed");
    let two = numbers(&*s.store, "SELECT ready FROM windows_two ORDER BY window_start").await;
    assert_eq!(two, [[Some(1.0)], [Some(0.0)]]);
}

async fn ready_at_an_edge_that_belongs_to_the_window(store: Arc<dyn Store>) {
    needs_sql!(store);
    store.pin_panes(&PaneSettings { edges: Edges::End, ..panes() }).await.unwrap();
    store.put_readiness(&readiness()).await.unwrap();
    store.add_partitions(SOURCE, &[(tp(0), 0)]).await.unwrap();
    let claims = store.claim(SOURCE, "owner", &[tp(0)]).await.unwrap();
    let id = store.intern(&[SeriesName::new("d", "s")], 9).await.unwrap()[0].unwrap();
    let mut s = Stream { store, claims, series: vec![id] };
    // (start, end]: the reading at the end belongs to it.
    s.commit(&[(0, id, &[(MINUTE, 1.0)])]).await;
    set_watermark(&mut s, 0, at(1)).await;
    assert_eq!(ready(&*s.store).await, [false], "another reading at the edge may come");
    set_watermark(&mut s, 0, at(1).plus_us(1)).await;
    assert_eq!(ready(&*s.store).await, [true]);
}

async fn ready_by_quiet_and_by_silence(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    for minute in 0..2 {
        s.commit(&[(minute, s.series[0], &[(1, 1.0)])]).await;
    }
    let disorder = readiness().max_disorder_us;
    let quiet = async |quiet_at| {
        let beat = Heartbeat { partition: tp(0), epoch: s.claims[0].epoch, quiet_at, end_offset: None };
        assert_eq!(s.store.heartbeat(SOURCE, "owner", &[beat]).await.unwrap(), Outcome::Done);
    };
    quiet(Some(at(1).plus_us(disorder - 1))).await;
    assert_eq!(ready(&*s.store).await, [false, false], "the owner's clock is not past end + max_disorder");
    quiet(Some(at(1).plus_us(disorder))).await;
    assert_eq!(ready(&*s.store).await, [true, false]);
    let settings = ReadinessSettings { owner_ttl_us: 0, ..readiness() };
    s.store.put_readiness(&settings).await.unwrap();
    sleep_ms(20).await;
    assert_eq!(ready(&*s.store).await, [false, false], "an owner that is gone asserts nothing");
    quiet(None).await;
    let settings = ReadinessSettings { max_wait_us: 1, ..readiness() };
    s.store.put_readiness(&settings).await.unwrap();
    sleep_ms(20).await;
    assert_eq!(ready(&*s.store).await, [true, true], "a silent owner is waited for no longer than max_wait");
    // A partition nobody ever owned counts from when its row was made.
    s.store.put_readiness(&readiness()).await.unwrap();
    s.store.add_partitions(SOURCE, &[(tp(1), 0)]).await.unwrap();
    set_watermark(&mut s, 0, at(9)).await;
    assert_eq!(ready(&*s.store).await, [false, false]);
}

async fn what_a_schedule_dealt_with_stays_ready(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    s.store.put_schedule(&schedule("two", 2)).await.unwrap();
    for minute in 0..3 {
        s.commit(&[(minute, s.series[0], &[(1, 1.0)])]).await;
    }
    assert_eq!(ready(&*s.store).await, [false; 3]);
    for (name, covered) in [("default", 2), ("two", 0)] {
        let row = s.store.schedules().await.unwrap().into_iter().find(|r| r.spec.name == name).unwrap();
        let step = ScheduleMove {
            name: row.spec.name,
            revision: row.revision,
            first_interval: Some(at(0)),
            covered_until: Some(at(covered)),
            ..ScheduleMove::default()
        };
        let plan = Plan { schedules: vec![step], ..Plan::default() };
        assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    }
    assert_eq!(ready(&*s.store).await, [true, true, false], "nobody asserts quietness any more");
    set_watermark(&mut s, 0, at(1)).await;
    assert_eq!(ready(&*s.store).await, [true, true, false], "a watermark behind it takes nothing back");
    set_watermark(&mut s, 0, at(3)).await;
    assert_eq!(ready(&*s.store).await, [true; 3]);
}

async fn predictions_are_stale_by_version(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    let (a, b) = (s.series[0], s.series[1]);
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    s.store.put_schedule(&schedule("two", 2)).await.unwrap();
    s.commit(&[(0, a, &[(1, 1.0)]), (1, a, &[(1, 1.0)])]).await;
    score(&*s.store, "default", span(0, 1), &[(a, Some(-0.5), 1), (b, None, 0)]).await;
    score(&*s.store, "default", span(1, 2), &[(a, Some(0.5), 1)]).await;
    score(&*s.store, "two", span(0, 2), &[(a, Some(0.5), 2), (b, None, 0)]).await;
    let sql = "SELECT stale FROM predictions ORDER BY schedule, window_start, device";
    let stale =
        async || -> Vec<f64> { numbers(&*s.store, sql).await.into_iter().map(|r| r[0].unwrap()).collect() };
    assert_eq!(stale().await, [0.0; 5]);
    let late = s.checkpoint(0, deltas(&[(1, a, &[(9, 1.0)]), (1, b, &[(9, 1.0)])]));
    assert_eq!(s.store.checkpoint(&late).await.unwrap(), Outcome::Done);
    assert_eq!(stale().await, [0.0, 0.0, 1.0, 1.0, 1.0]);
    let sql = "SELECT device, decision, normal_range FROM anomalies";
    let wanted = [Cell::Text("d0".into()), Cell::Float(-0.5), Cell::Text("10.01 … 14.18".into())];
    assert_eq!(rows(&*s.store, sql).await, [wanted]);
}

async fn views_hide_what_crosses_the_floor(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    let a = s.series[0];
    s.store.put_schedule(&schedule("two", 2)).await.unwrap();
    for minute in 0..6 {
        s.commit(&[(minute, a, &[(1, minute as f64)])]).await;
    }
    for start in [0, 2, 4] {
        score(&*s.store, "two", span(start, start + 2), &[(a, Some(0.5), 2)]).await;
    }
    s.store.retain_from(at(3)).await.unwrap();
    assert_eq!(numbers(&*s.store, "SELECT sum FROM windows ORDER BY window_start").await.len(), 3);
    assert_eq!(numbers(&*s.store, "SELECT sum FROM windows_two").await, [[Some(9.0)]]);
    let stale = numbers(&*s.store, "SELECT stale FROM predictions ORDER BY window_start").await;
    assert_eq!(stale, [[Some(0.0)]; 3], "predictions of hidden windows are frozen");
}

async fn the_views_have_the_documented_columns(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    s.store.put_schedule(&schedule("five", 5)).await.unwrap();
    s.commit(&[(0, s.series[0], &[(1, 1.0)])]).await;
    let windows = "window_start, window_end, device, sensor, readings, sum, mean, stddev, min, max, first, last, version, ready";
    let views = [
        ("windows", windows),
        ("windows_five", windows),
        (
            "predictions",
            "schedule, window_start, window_end, device, sensor, value, prediction, decision, status, model_set, model, \
             window_version, stale, run_id, scored_at",
        ),
        (
            "anomalies",
            "schedule, window_start, window_end, device, sensor, value, prediction, decision, status, model_set, model, \
             window_version, stale, run_id, scored_at",
        ),
        (
            "dead_letters",
            "id, topic, kafka_partition, kafka_offset, position, code, detail, payload, broker_time, recorded_at, \
             replayed_at",
        ),
        (
            "progress",
            "source, topic, kafka_partition, next_offset, end_offset, watermark, owner, owner_seen_at, updated_at",
        ),
        (
            "runs",
            "run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, anomalies, no_data, \
             no_model, model_error, input_invalid, attempt, started_at, finished_at, error, data_only, opened_at, scope, \
             series, shards, shards_done, shards_failed, open_s, read_s, score_s, write_s, retry_of, stalled_at, log",
        ),
        (
            "run_tasks",
            "schedule, interval_start, interval_end, shard, run_id, state, attempt, worker, lease_until, updated_at, tries, \
             series_from, series_until, scored, anomalies, no_data, no_model, model_error, input_invalid, open_s, read_s, \
             score_s, write_s, not_before, error, failures",
        ),
        ("run_events", "run_id, at, event, shard, worker, detail, id"),
        (
            "fires",
            "schedule, fire_at, last_fire_at, fires, made, reason, recorded_at, interval_start, interval_end",
        ),
        ("silences", "schedule, device, sensor, since, ended_at, noticed_at"),
        ("events", "id, at, kind, schedule, run_id, series, detail"),
        (
            "publications",
            "schedule, interval_start, interval_end, due, published_at, fence, worker, lease_until",
        ),
        (
            "model_sets",
            "version, path, active, models, refused, origin, checksum, created_by, created_at, features, training_rows, note",
        ),
        ("model_pins", "device, sensor, model_set, pinned_by, pinned_at"),
        ("model_failures", "model_set, device, sensor, source, reason"),
        (
            "schedules",
            "name, window_s, hop_s, features, trigger, cron, time_zone, enabled, paused_at, paused_by, series, model_set, \
             catch_up, max_age_s, max_runs, rescore_delay_s, republish_gap_s, revision, first_interval, covered_until, \
             looked_at, fired_at, created_at, settings",
        ),
        ("loss_events", "source, topic, kafka_partition, from_offset, to_offset, detail, recorded_at"),
    ];
    for (view, columns) in views {
        let got =
            s.store.query(&format!("SELECT * FROM {view}")).await.unwrap_or_else(|e| panic!("{view}: {e}"));
        let wanted: Vec<_> = columns.split(", ").collect();
        // The order is fixed where the documentation lists all of them.
        if !["model_sets", "loss_events"].contains(&view) {
            assert_eq!(got.columns[..wanted.len()], wanted, "{view}");
        } else {
            assert!(wanted.iter().all(|c| got.columns.iter().any(|g| g == c)), "{view}: {:?}", got.columns);
        }
    }
    let task = task(&*s.store, "five", span(0, 5), 4).await;
    let (a, b, c) = (s.series[0], s.series[1], s.series[2]);
    let scored = [(a, Some(-0.5), 1), (b, None, 0), (c, Some(f64::NAN), 1)];
    assert!(is_done(&commit_rows(&*s.store, &task, &scored).await.unwrap()));
    let got = rows(
        &*s.store,
        "SELECT run_id, state, cause, model_set, scored, anomalies, no_data, attempt FROM runs",
    );
    let text = |t: &str| Cell::Text(t.to_owned());
    let wanted = [
        text(&task.run_id.to_string()),
        text("partial"),
        text("schedule"),
        Cell::Int(4),
        Cell::Int(1),
        Cell::Int(1),
        Cell::Int(1),
        Cell::Int(1),
    ];
    assert_eq!(got.await, [wanted]);
    let got = rows(&*s.store, "SELECT next_offset, owner FROM progress").await;
    assert_eq!(got, [[Cell::Int(1), text("owner")]]);
}

async fn the_view_schedules_tells_the_settings(store: Arc<dyn Store>) {
    needs_sql!(store);
    let s = stream(store, 1).await;
    let cron = Trigger::Cron { expression: "0 6 * * *".into(), time_zone: "Europe/Berlin".into() };
    let spec = ScheduleSpec {
        trigger: cron,
        enabled: false,
        series: Some("^d1/'s'$".into()),
        model_set: Some(7),
        catch_up: CatchUp::Latest,
        max_age_us: Some(1_500_000),
        max_runs: Some(3),
        rescore_delay_us: None,
        republish_gap_us: 2_000_000,
        ..ScheduleSpec::new("morning", 5 * MINUTE)
    };
    s.store.put_schedule(&spec).await.unwrap();
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    s.store.put_schedule(&ScheduleSpec { trigger: Trigger::Manual, ..schedule("by_hand", 1) }).await.unwrap();
    assert!(s.store.pause_schedule("morning", Some("ann")).await.unwrap());
    let sql =
        "SELECT name, trigger, cron, time_zone, series, catch_up, paused_by FROM schedules ORDER BY name";
    let text = |t: &str| if t.is_empty() { Cell::Null } else { Cell::Text(t.to_owned()) };
    let told = |texts: [&str; 7]| texts.map(text).to_vec();
    let wanted = [
        told(["by_hand", "manual", "", "", "", "all", ""]),
        told(["default", "interval", "", "", "", "all", ""]),
        told(["morning", "cron", "0 6 * * *", "Europe/Berlin", "^d1/'s'$", "latest", "ann"]),
    ];
    assert_eq!(rows(&*s.store, sql).await, wanted);
    let sql =
        "SELECT window_s, hop_s, enabled, model_set, max_age_s, max_runs, rescore_delay_s, republish_gap_s
               FROM schedules ORDER BY name";
    let got = numbers(&*s.store, sql).await;
    let wanted = [Some(300.0), Some(300.0), Some(0.0), Some(7.0), Some(1.5), Some(3.0), None, Some(2.0)];
    assert_eq!(got[2], wanted);
    assert_eq!((got[1][2], got[1][3], got[1][6]), (Some(1.0), None, Some(0.0)));
    let sql = "SELECT CASE WHEN paused_at IS NULL THEN 0 ELSE 1 END FROM schedules ORDER BY name";
    assert_eq!(numbers(&*s.store, sql).await, [[Some(0.0)], [Some(0.0)], [Some(1.0)]]);
}

async fn the_views_of_a_run_tell_its_shards_and_steps(store: Arc<dyn Store>) {
    needs_sql!(store);
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let run = NewRun {
        cuts: vec![s.series[2]],
        series: Some("^d".into()),
        ..new_run("default", span(0, 1), Some(1))
    };
    open_runs(&*s.store, vec![run.clone()]).await;
    let first = claim_any(&*s.store, LONG).await.unwrap();
    let phases = Phases { open_us: 250_000, read_us: 500_000, score_us: 1_000_000, write_us: 2_000_000 };
    let scored = [(s.series[0], Some(0.5), 1), (s.series[1], Some(-0.5), 1)];
    let commit = PredictionCommit {
        task: &first,
        selection: &Selection::of(first.range),
        predictions: Box::pin(futures::stream::iter(vec![Ok(predictions(&scored))])),
        phases: &move || phases,
        rules: &Rules::default(),
    };
    assert!(is_done(&s.store.commit_predictions(commit).await.unwrap()));
    let second = claim_any(&*s.store, LONG).await.unwrap();
    assert_eq!(fail(&*s.store, &second, "no answer", true).await, GivenBack::Ended(RunState::Partial));
    let got = numbers(
        &*s.store,
        "SELECT shards, shards_done, shards_failed, scored, anomalies, attempt, open_s, read_s, score_s, write_s FROM runs",
    );
    assert_eq!(got.await, [[2.0, 1.0, 1.0, 2.0, 1.0, 2.0, 0.25, 0.5, 1.0, 2.0].map(Some)]);
    let text = |t: &str| Cell::Text(t.to_owned());
    assert_eq!(rows(&*s.store, "SELECT scope, series FROM runs").await, [[text("all"), text("^d")]]);
    let sql = "SELECT shard, tries, scored, series_from, series_until, open_s FROM run_tasks ORDER BY shard";
    let border = f64::from(s.series[2]);
    let wanted = [
        [Some(0.0), Some(1.0), Some(2.0), Some(0.0), Some(border), Some(0.25)],
        [Some(1.0), Some(1.0), Some(0.0), Some(border), None, Some(0.0)],
    ];
    assert_eq!(numbers(&*s.store, sql).await, wanted);
    let sql = "SELECT state, worker, error FROM run_tasks ORDER BY shard";
    let wanted = [[text("done"), text("w"), Cell::Null], [text("failed"), text("w"), text("no answer")]];
    assert_eq!(rows(&*s.store, sql).await, wanted);
    let sql = "SELECT run_id, event, shard FROM run_events ORDER BY id";
    let id = text(&run.run_id.to_string());
    let step = |event: &str, shard| [id.clone(), text(event), shard];
    let wanted = [
        step("running", Cell::Null),
        step("started", Cell::Null),
        step("shard_failed", Cell::Int(1)),
        step("partial", Cell::Null),
    ];
    assert_eq!(rows(&*s.store, sql).await, wanted);
}

async fn what_was_passed_over_is_among_the_fires(store: Arc<dyn Store>) {
    needs_sql!(store);
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let fire = |minute, fires, reason: Option<&str>| Fire {
        schedule: "default".into(),
        at: at(minute),
        last: at(minute + fires - 1),
        fires,
        reason: reason.map(Into::into),
    };
    let gap = SkippedRange {
        run_id: Uuid::new_v4(),
        schedule: "default".into(),
        range: span(2, 9),
        cause: RunCause::Gap,
        note: "no readings".into(),
    };
    let fires = vec![fire(1, 1, None), fire(2, 3, Some("paused"))];
    let plan = Plan { fires, skipped: vec![gap], ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    open_runs(&*s.store, vec![new_run("default", span(9, 10), Some(1))]).await;
    let sql = "SELECT fires, made, CASE WHEN fire_at IS NULL THEN 1 ELSE 0 END,
                   CASE WHEN interval_start IS NULL THEN 1 ELSE 0 END FROM fires ORDER BY 3, 1";
    let wanted = [
        [Some(1.0), Some(1.0), Some(0.0), Some(1.0)],
        [Some(3.0), Some(0.0), Some(0.0), Some(1.0)],
        [None, Some(0.0), Some(1.0), Some(0.0)],
    ];
    assert_eq!(numbers(&*s.store, sql).await, wanted);
    let sql = "SELECT reason FROM fires WHERE reason IS NOT NULL ORDER BY reason";
    let text = |t: &str| Cell::Text(t.to_owned());
    assert_eq!(rows(&*s.store, sql).await, [[text("no readings")], [text("paused")]]);
    // So is a run that came too late, with what it says of itself.
    let task = claim_any(&*s.store, LONG).await.unwrap();
    s.store.retain_from(at(20)).await.unwrap();
    assert_eq!(commit_rows(&*s.store, &task, &[]).await.unwrap(), Committed::Frozen);
    let sql = "SELECT reason FROM fires WHERE reason LIKE '%floor of retention%'";
    assert_eq!(rows(&*s.store, sql).await.len(), 1);
}

async fn the_views_of_the_roster_name_the_series(store: Arc<dyn Store>) {
    needs_sql!(store);
    let s = stream(store, 1).await;
    s.store.put_schedule(&schedule("default", 1)).await.unwrap();
    let row = s.store.schedules().await.unwrap().remove(0);
    let step = ScheduleMove {
        name: "default".into(),
        revision: row.revision,
        first_interval: Some(at(0)),
        covered_until: Some(at(2)),
        ..ScheduleMove::default()
    };
    let plan = Plan { schedules: vec![step], ..Plan::default() };
    assert_eq!(s.store.plan(&plan).await.unwrap(), Outcome::Done);
    let (a, b) = (s.series[0], s.series[1]);
    score(&*s.store, "default", span(0, 1), &[(a, None, 0), (b, None, 0)]).await;
    score(&*s.store, "default", span(1, 2), &[(a, Some(0.5), 1), (b, None, 0)]).await;
    for _ in 0..2 {
        assert!(s.store.advance_roster("default", Some(30_000_000)).await.unwrap());
    }
    let sql =
        "SELECT schedule, device, sensor FROM silences WHERE ended_at IS NULL AND noticed_at IS NOT NULL";
    let text = |t: &str| Cell::Text(t.to_owned());
    assert_eq!(rows(&*s.store, sql).await, [[text("default"), text("d1"), text("s")]]);
    let sql = "SELECT kind, schedule, series FROM events ORDER BY id";
    let event = |kind: &str, n| [text(kind), text("default"), Cell::Int(n)];
    assert_eq!(rows(&*s.store, sql).await, [event("series_silent", 2), event("series_back", 1)]);
}

async fn losses_are_recorded_with_the_position(store: Arc<dyn Store>) {
    needs_sql!(store);
    let s = stream(store, 1).await;
    let mut checkpoint = s.checkpoint(0, deltas(&[]));
    checkpoint.advances[0].to = 500;
    checkpoint.losses =
        vec![Loss { partition: tp(0), from: 0, to: 500, detail: "retention of the topic".into() }];
    checkpoint.dead_letters = vec![DeadLetter {
        partition: tp(0),
        offset: 3,
        position: 2,
        code: DeadLetterCode::BadValue,
        detail: "value".into(),
        payload: Some(b"{\"value\": null}".to_vec()),
        broker_time: None,
        count: 1,
        last_offset: None,
        sensors: vec!["load".into(), "a \"quoted\" one".into()],
    }];
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Done);
    assert_eq!(s.store.checkpoint(&checkpoint).await.unwrap(), Outcome::Fenced);
    let got = rows(
        &*s.store,
        "SELECT source, topic, kafka_partition, from_offset, to_offset, detail FROM loss_events",
    );
    let text = |t: &str| Cell::Text(t.to_owned());
    let wanted = [
        text(SOURCE),
        text("readings"),
        Cell::Int(0),
        Cell::Int(0),
        Cell::Int(500),
        text("retention of the topic"),
    ];
    assert_eq!(got.await, [wanted]);
    let got = rows(&*s.store, "SELECT topic, kafka_offset, position, code, count FROM dead_letters").await;
    assert_eq!(got, [[text("readings"), Cell::Int(3), Cell::Int(2), text("bad_value"), Cell::Int(1)]]);
}

async fn a_query_reads_and_nothing_else(store: Arc<dyn Store>) {
    needs_sql!(store);
    let mut s = stream(store, 1).await;
    s.commit(&[(0, s.series[0], &[(1, 1.0)])]).await;
    let result = s.store.query("SELECT 1 AS one, NULL AS none_at_all, 'ü' AS t, 0.5e0 AS f;").await.unwrap();
    assert_eq!(result.columns, ["one", "none_at_all", "t", "f"]);
    assert_eq!(result.rows, [[Cell::Int(1), Cell::Null, Cell::Text("ü".into()), number_half(&result)]]);
    for sql in [
        "DELETE FROM pane_data",
        "DROP VIEW windows",
        "UPDATE progress_data SET next_offset = 0",
        "CREATE TABLE mine (x INTEGER)",
        "CREATE TEMPORARY TABLE mine (x INTEGER)",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM pane_data",
        "COMMIT; DELETE FROM pane_data",
        "SELECT nonsense FROM nowhere",
        "SELEKT 1",
        "",
    ] {
        match s.store.query(sql).await {
            Err(StoreError::Query { message }) => assert!(!message.is_empty()),
            other => panic!("`{sql}`: {other:?}"),
        }
    }
    assert_eq!(windows(&*s.store, span(0, 1)).await.len(), 1);
    assert_eq!(s.rows().await[0].next_offset, 1);
    assert!(rows(&*s.store, "SELECT * FROM windows WHERE readings > 5").await.is_empty());
    // The store is as usable as before.
    s.commit(&[(0, s.series[0], &[(2, 1.0)])]).await;
}

/// 0.5 as a floating-point number, or as the database's own text of a decimal.
fn number_half(result: &QueryResult) -> Cell {
    let cell = result.rows[0][3].clone();
    assert_eq!(number(&cell), Some(0.5));
    cell
}
