//! The log of a run, for people: what it was, what happened to it, what its shards did, why models failed.

use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{Phases, RunEvent, RunRow, TaskRow};
use std::fmt::Write;

/// Failures that a log groups by their error; the others are counted.
pub(crate) const FAILURES: usize = 50;

/// What a log is written from.
#[derive(Debug)]
pub(crate) struct RunLog<'a> {
    pub(crate) run: &'a RunRow,
    pub(crate) events: &'a [RunEvent],
    pub(crate) tasks: &'a [TaskRow],
    /// Why models failed, most frequent first.
    pub(crate) failures: &'a [(String, i64)],
}

/// Where the log of a run lies in blob storage: by schedule, and by the day on which its interval starts.
pub(crate) fn path(run: &RunRow) -> String {
    let start = run.interval.start;
    let day = match start.to_datetime() {
        Some(t) => t.format("%Y%m%d").to_string(),
        None => start.0.to_string(),
    };
    format!("logs/schedule={}/{day}/{}.log", run.schedule, run.run_id)
}

impl RunLog<'_> {
    /// The text. The same rows give the same bytes.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        self.write(&mut out).ok();
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        self.write_run(out)?;
        writeln!(out, "\nWhat happened")?;
        for e in self.events {
            write!(out, "  {}  {}", e.at.to_rfc3339(), e.event)?;
            if let Some(shard) = e.shard {
                write!(out, ", shard {shard}")?;
            }
            if let Some(worker) = &e.worker {
                write!(out, ", {worker}")?;
            }
            match &e.detail {
                Some(detail) => writeln!(out, ": {}", one_line(detail))?,
                None => writeln!(out)?,
            }
        }
        self.write_shards(out)?;
        if !self.failures.is_empty() {
            writeln!(out, "\nWhy models failed")?;
            for (reason, models) in self.failures {
                writeln!(out, "  {models} × {}", one_line(reason))?;
            }
            let named: i64 = self.failures.iter().map(|f| f.1).sum();
            if self.failures.len() >= FAILURES && named < self.run.counts.model_error {
                writeln!(out, "  {} × for other reasons", self.run.counts.model_error - named)?;
            }
        }
        Ok(())
    }

    fn write_run(&self, out: &mut String) -> std::fmt::Result {
        let r = self.run;
        writeln!(out, "Run {} of schedule {}", r.run_id, r.schedule)?;
        writeln!(out, "  interval   {} to {}", r.interval.start.to_rfc3339(), r.interval.end.to_rfc3339())?;
        writeln!(
            out,
            "  ended      {}{}",
            r.state,
            r.error.as_ref().map_or(String::new(), |e| format!(": {}", one_line(e)))
        )?;
        writeln!(out, "  cause      {}", r.cause)?;
        if let Some(of) = r.retry_of {
            writeln!(out, "  repeats    what run {of} left undone")?;
        }
        write!(out, "  series     {}", r.scope)?;
        if let Some(series) = &r.series {
            write!(out, " of those that match `{series}`")?;
        }
        writeln!(out, "{}", if r.data_only { ", with data alone" } else { "" })?;
        match r.model_set {
            Some(version) => writeln!(out, "  model set  {version}")?,
            None => writeln!(out, "  model set  none")?,
        }
        let times = [("opened", Some(r.opened_at)), ("started", r.started_at), ("finished", r.finished_at)];
        for (name, at) in times {
            writeln!(out, "  {name:<9}  {}", at.map_or_else(|| "never".to_owned(), Timestamp::to_rfc3339))?;
        }
        let c = r.counts;
        writeln!(
            out,
            "  rows       {}: {} scored ({} anomalies), {} no_data, {} no_model, {} model_error, {} input_invalid",
            c.rows(),
            c.scored,
            c.anomalies,
            c.no_data,
            c.no_model,
            c.model_error,
            c.input_invalid
        )?;
        writeln!(out, "  shards     {}: {} done, {} failed", r.shards, r.shards_done, r.shards_failed)?;
        writeln!(out, "  time       {}", phases(&r.phases))
    }

    fn write_shards(&self, out: &mut String) -> std::fmt::Result {
        if self.tasks.is_empty() {
            return if self.run.shards > 0 {
                writeln!(out, "\nA later run of the interval has taken its shards over.")
            } else {
                Ok(())
            };
        }
        writeln!(out, "\nShards")?;
        for t in self.tasks {
            let until = t.range.until.map_or_else(|| "end".to_owned(), |u| (u - 1).to_string());
            write!(out, "  {}  series {} to {until}, {}", t.shard, t.range.from.max(1), t.state)?;
            let tries = if t.tries == 1 { "try" } else { "tries" };
            write!(out, ", {} {tries}", t.tries)?;
            if let Some(worker) = &t.worker {
                write!(out, ", {worker}")?;
            }
            write!(out, ", {} rows, {}", t.counts.rows(), phases(&t.phases))?;
            match &t.error {
                Some(error) => writeln!(out, ": {}", one_line(error))?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}

fn phases(p: &Phases) -> String {
    let ms = |us: i64| us as f64 / 1000.0;
    format!(
        "open {:.1} ms, read {:.1} ms, score {:.1} ms, write {:.1} ms",
        ms(p.open_us),
        ms(p.read_us),
        ms(p.score_us),
        ms(p.write_us)
    )
}

/// An error may have lines of its own; one in a log may not look like a line of the log.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, span};
    use fleetscore_schemas::status::{RunCause, RunScope, RunState, TaskState};
    use fleetscore_store::{RunCounts, SeriesRange};
    use uuid::Uuid;

    #[test]
    fn a_log_says_what_a_run_was_and_what_became_of_it() {
        let counts = RunCounts { scored: 3, anomalies: 1, model_error: 2, ..RunCounts::default() };
        let phases = Phases { open_us: 1500, read_us: 0, score_us: 20_000, write_us: 300 };
        let run = RunRow {
            run_id: Uuid::from_u128(7),
            schedule: "default".into(),
            interval: span(0, 1),
            state: RunState::Partial,
            cause: RunCause::Manual,
            model_set: Some(4),
            counts,
            attempt: 3,
            opened_at: at(2),
            started_at: Some(at(3)),
            finished_at: Some(at(4)),
            error: Some("1 of 2 shards failed".into()),
            data_only: false,
            scope: RunScope::Stale,
            series: Some("^d/".into()),
            shards: 2,
            shards_done: 1,
            shards_failed: 1,
            phases,
            retry_of: None,
            stalled_at: None,
            log: None,
        };
        let event = |event: &str, shard, detail: Option<&str>| RunEvent {
            at: at(3),
            event: event.into(),
            shard,
            worker: shard.map(|_| "w1".to_owned()),
            detail: detail.map(str::to_owned),
        };
        let task = |shard, range, state, tries, error: Option<&str>| TaskRow {
            run_id: run.run_id,
            shard,
            range,
            state,
            attempt: 9,
            tries,
            worker: Some("w1".into()),
            lease_until: None,
            counts: if state == TaskState::Done { counts } else { RunCounts::default() },
            phases,
            error: error.map(str::to_owned),
            updated_at: at(4),
        };
        let log = RunLog {
            run: &run,
            events: &[event("running", None, None), event("retrying", Some(1), Some("gone\n  for good"))],
            tasks: &[
                task(0, SeriesRange { from: 0, until: Some(6) }, TaskState::Done, 1, None),
                task(1, SeriesRange { from: 6, until: None }, TaskState::Failed, 3, Some("gone")),
            ],
            failures: &[("refused".into(), 2)],
        };
        let expected = "\
Run 00000000-0000-0000-0000-000000000007 of schedule default
  interval   2026-01-01T00:00:00.000000Z to 2026-01-01T00:01:00.000000Z
  ended      partial: 1 of 2 shards failed
  cause      manual
  series     stale of those that match `^d/`
  model set  4
  opened     2026-01-01T00:02:00.000000Z
  started    2026-01-01T00:03:00.000000Z
  finished   2026-01-01T00:04:00.000000Z
  rows       5: 3 scored (1 anomalies), 0 no_data, 0 no_model, 2 model_error, 0 input_invalid
  shards     2: 1 done, 1 failed
  time       open 1.5 ms, read 0.0 ms, score 20.0 ms, write 0.3 ms

What happened
  2026-01-01T00:03:00.000000Z  running
  2026-01-01T00:03:00.000000Z  retrying, shard 1, w1: gone / for good

Shards
  0  series 1 to 5, done, 1 try, w1, 5 rows, open 1.5 ms, read 0.0 ms, score 20.0 ms, write 0.3 ms
  1  series 6 to end, failed, 3 tries, w1, 0 rows, open 1.5 ms, read 0.0 ms, score 20.0 ms, write 0.3 ms: gone

Why models failed
  2 × refused
";
        assert_eq!(log.text(), expected);
        assert_eq!(path(&run), "logs/schedule=default/20260101/00000000-0000-0000-0000-000000000007.log");
    }
}
