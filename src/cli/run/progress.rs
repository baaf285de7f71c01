//! How far a range has come: a bar on a terminal, nothing elsewhere.

use fleetscore_scorer::range::RangeProgress;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often it is drawn: rates and the time left change by the clock, too.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// Shows progress for as long as it lives.
pub(super) struct Bar(Option<(ProgressBar, JoinHandle<()>)>);

impl Bar {
    /// Shows what is told; nothing where standard error is no terminal.
    pub(super) fn start(told: watch::Receiver<RangeProgress>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_bar} {msg}") {
            bar.set_style(style);
        }
        let (drawn, mut clock) = (bar.clone(), tokio::time::interval(DRAW_EVERY));
        let task = tokio::spawn(async move {
            loop {
                clock.tick().await;
                let now = *told.borrow();
                // None at all would be drawn as all of them.
                drawn.set_length(now.intervals_total.max(1) as u64);
                drawn.set_position(now.intervals_done as u64);
                drawn.set_message(words(&now, now.started.elapsed()));
                drawn.tick();
            }
        });
        Self(Some((bar, task)))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((bar, task)) = &self.0 {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

/// Where it stands, its rates and the time left, as far as they are known.
fn words(p: &RangeProgress, elapsed: Duration) -> String {
    if p.intervals_total == 0 {
        return "looking for intervals with data".to_owned();
    }
    let seconds = elapsed.as_secs_f64().max(0.001);
    let mut parts = vec![format!("{}/{} intervals", p.intervals_done, p.intervals_total)];
    if p.intervals_done > 0 {
        parts.push(format!("{} intervals/s", rate(p.intervals_done as f64 / seconds)));
    }
    if p.rows > 0 {
        parts.push(format!("{} rows/s", rate(p.rows as f64 / seconds)));
    }
    let left = p.intervals_total.saturating_sub(p.intervals_done);
    if p.intervals_done > 0 && left > 0 {
        let left = elapsed.mul_f64(left as f64 / p.intervals_done as f64);
        parts.push(format!("{} left", HumanDuration(left)));
    }
    parts.join(", ")
}

/// A number with as many digits as tell something.
fn rate(n: f64) -> String {
    match n {
        n if n < 10.0 => format!("{n:.1}"),
        n if n < 10_000.0 => format!("{n:.0}"),
        n if n < 10_000_000.0 => format!("{:.0} k", n / 1e3),
        n => format!("{:.0} M", n / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_are_said_as_soon_as_they_are_known() {
        let at = |done, total, rows| RangeProgress {
            intervals_done: done,
            intervals_total: total,
            rows,
            ..RangeProgress::new()
        };
        #[rustfmt::skip]
        let cases = [
            ("before anything is known", at(0, 0, 0), 5, "looking for intervals with data"),
            ("nothing done yet", at(0, 100, 0), 5, "0/100 intervals"),
            ("within the first interval", at(0, 1, 1_000_000), 10, "0/1 intervals, 100 k rows/s"),
            ("under way", at(25, 100, 50_000), 50, "25/100 intervals, 0.5 intervals/s, 1000 rows/s, 3 minutes left"),
            ("done", at(100, 100, 400), 50, "100/100 intervals, 2.0 intervals/s, 8.0 rows/s"),
            ("at once", at(1, 2, 10), 0, "1/2 intervals, 1000 intervals/s, 10 k rows/s, 0 seconds left"),
        ];
        for (name, progress, seconds, said) in cases {
            assert_eq!(words(&progress, Duration::from_secs(seconds)), said, "{name}");
        }
    }

    #[test]
    fn rates_have_few_digits() {
        let texts = [0.04, 9.96, 10.4, 9_999.0, 123_456.0, 12_345_678.0].map(rate);
        assert_eq!(texts, ["0.0", "10.0", "10", "9999", "123 k", "12 M"]);
    }

    #[tokio::test]
    async fn without_a_terminal_there_is_no_bar() {
        let (_tell, told) = watch::channel(RangeProgress::new());
        let bar = Bar::start(told);
        assert!(bar.0.is_none() || std::io::stderr().is_terminal());
    }
}
