//! What is looked at every few seconds.

use crate::Result;
use crate::live::Pipeline;
use crate::live::latency::{Latencies, Way};
use crate::live::producer::Producer;
use crate::live::watch::{Look, look};
use crate::report::quantile;

/// What one process holds.
pub type Held = (&'static str, Look);

/// Seconds of one stretch: median and 99th percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Percentiles {
    /// Half take no longer.
    pub p50_s: Option<f64>,
    /// All but one of a hundred take no longer.
    pub p99_s: Option<f64>,
}

impl Percentiles {
    fn of(ways: &[Way]) -> Self {
        let seconds: Vec<f64> = ways.iter().map(Way::seconds).collect();
        Self { p50_s: quantile(&seconds, 0.5), p99_s: quantile(&seconds, 0.99) }
    }
}

/// One look at everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Since the beginning.
    pub seconds: f64,
    /// `aggregate` and `score`.
    pub held: Vec<Held>,
    /// Windows in SQL.
    pub windows: u64,
    /// Bytes of their table, with indexes.
    pub windows_bytes: u64,
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Readings sent so far.
    pub readings: u64,
    /// How many seconds of readings are sent and not in SQL.
    pub lag_s: f64,
    /// Dead letters.
    pub letters: u64,
    /// From sending to SQL, of what arrived since the last sample.
    pub to_sql: Percentiles,
    /// From sending to the prediction of the window.
    pub to_score: Percentiles,
}

impl Sample {
    pub(super) fn take(
        pipeline: &mut Pipeline,
        producer: &Producer,
        latencies: &mut Latencies,
        seconds: f64,
        in_sql: i64,
    ) -> Result<Self> {
        let held = pipeline
            .processes
            .iter()
            .map(|p| Some((p.role, look(p.service.process.id())?)))
            .collect::<Option<Vec<Held>>>()
            .ok_or("a process is gone")?;
        let rows = pipeline.sql.rows(
            "SELECT (SELECT count(*) FROM windows), \
             (SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_partition_tree('pane_data')), \
             pg_database_size(current_database()), (SELECT count(*) FROM dead_letters)",
        )?;
        let row = rows.first().ok_or("the database does not say its size")?;
        let number = |i: usize| row.get::<_, i64>(i).unsigned_abs();
        let (messages, readings) = producer.sent();
        let (committed, scored) = latencies.take();
        Ok(Self {
            seconds,
            held,
            windows: number(0),
            windows_bytes: number(1),
            database_bytes: number(2),
            letters: number(3),
            readings,
            lag_s: (messages as f64 - in_sql as f64).max(0.0) / (messages as f64 / seconds).max(1.0),
            to_sql: Percentiles::of(&committed),
            to_score: Percentiles::of(&scored),
        })
    }

    /// For people who wait.
    pub(super) fn line(&self) -> String {
        let held: Vec<String> = self
            .held
            .iter()
            .map(|(role, l)| {
                format!("{role} {} MB {} fd {} threads", l.rss_bytes / 1_000_000, l.handles, l.threads)
            })
            .collect();
        format!(
            "{:6.0} s: {} readings, {} windows, {}; lag {:.1} s; to SQL {:?}, to prediction {:?}",
            self.seconds,
            self.readings,
            self.windows,
            held.join(", "),
            self.lag_s,
            self.to_sql.p99_s,
            self.to_score.p99_s
        )
    }
}

/// All samples as CSV.
pub(super) fn csv(samples: &[Sample]) -> String {
    let mut out =
        "seconds,readings,windows,windows_bytes,database_bytes,dead_letters,lag_s,to_sql_p50_s,to_sql_p99_s,\
                   to_prediction_p50_s,to_prediction_p99_s"
            .to_owned();
    for (role, _) in samples.first().iter().flat_map(|s| &s.held) {
        out += &format!(",{role}_resident_bytes,{role}_anonymous_bytes,{role}_handles,{role}_threads");
    }
    out.push('\n');
    let seconds = |s: Option<f64>| s.map_or(String::new(), |s| format!("{s:.3}"));
    for s in samples {
        out += &format!(
            "{:.1},{},{},{},{},{},{:.2},{},{},{},{}",
            s.seconds,
            s.readings,
            s.windows,
            s.windows_bytes,
            s.database_bytes,
            s.letters,
            s.lag_s,
            seconds(s.to_sql.p50_s),
            seconds(s.to_sql.p99_s),
            seconds(s.to_score.p50_s),
            seconds(s.to_score.p99_s)
        );
        for (_, l) in &s.held {
            out += &format!(",{},{},{},{}", l.rss_bytes, l.anonymous_bytes, l.handles, l.threads);
        }
        out.push('\n');
    }
    out
}
