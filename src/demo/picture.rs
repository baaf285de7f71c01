//! What the demo shows while it runs: a live picture on a terminal, one line an interval elsewhere.

use super::quality::Summary;
use crate::{logging, output};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::VecDeque;
use std::io::IsTerminal;

/// Anomalies that stay on the screen.
const KEPT: usize = 8;

/// What the picture shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scene {
    /// What is being done, in words.
    pub(crate) doing: String,
    /// Where event time stands.
    pub(crate) event_time: String,
    pub(crate) readings: u64,
    pub(crate) readings_a_second: f64,
    pub(crate) windows: u64,
    pub(crate) dead_letters: u64,
    pub(crate) summary: Summary,
}

/// A scored interval as it is told.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) start: String,
    pub(crate) scored: i64,
    /// `press-07/temperature 61.2 outside 57.8 … 60.9 (spike)`.
    pub(crate) anomalies: Vec<String>,
    pub(crate) no_data: i64,
}

/// The picture.
pub(crate) enum Picture {
    /// On a terminal.
    Live { multi: MultiProgress, lines: Vec<ProgressBar>, anomalies: VecDeque<String> },
    /// Anywhere else.
    Lines,
}

impl Picture {
    /// A live one if both outputs are a terminal.
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() || !std::io::stdout().is_terminal() {
            return Self::Lines;
        }
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        let style =
            ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = || multi.add(ProgressBar::new_spinner().with_style(style.clone()));
        let lines = std::iter::repeat_with(bar).take(4 + KEPT).collect();
        logging::set_picture(Some(multi.clone()));
        Self::Live { multi, lines, anomalies: VecDeque::new() }
    }

    /// Something to be told once, above the picture.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Self::Live { multi, .. } => multi.suspend(|| output::print(text)),
            Self::Lines => output::print(text),
        }
    }

    /// A scored interval.
    pub(crate) fn interval(&mut self, told: &Told, summary: &Summary) {
        match self {
            Self::Live { anomalies, .. } => {
                for a in &told.anomalies {
                    anomalies.push_front(format!("{}  {a}", told.start));
                }
                anomalies.truncate(KEPT);
            }
            Self::Lines => {
                let silent =
                    if told.no_data > 0 { format!(", {} no data", told.no_data) } else { String::new() };
                let mut line = format!(
                    "{}  {} scored, {} anomalies{silent}",
                    told.start,
                    told.scored,
                    told.anomalies.len()
                );
                if summary.intervals > 0 {
                    line.push_str(&format!("; recall {}, precision {}", summary.recall, summary.precision));
                }
                if let Some(first) = told.anomalies.first() {
                    let more = told.anomalies.len() - 1;
                    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                    line.push_str(&format!("; {first}{more}"));
                }
                output::print(&line);
            }
        }
    }

    /// Draws a terminal's picture anew.
    pub(crate) fn draw(&self, scene: &Scene) {
        let Self::Live { lines, anomalies, .. } = self else { return };
        let Scene { doing, event_time, readings, readings_a_second, windows, dead_letters, summary } = scene;
        let text = [
            format!("{doing}   event time {event_time}"),
            format!(
                "{readings_a_second:>8.0} readings/s   {readings} readings   {windows} windows   {dead_letters} dead letters"
            ),
            format!(
                "{:>8} intervals scored since the faults began   recall {}   precision {}",
                summary.intervals, summary.recall, summary.precision
            ),
            if anomalies.is_empty() { String::new() } else { "last anomalies:".to_owned() },
        ];
        let anomalies = anomalies.iter().map(|a| format!("  {a}"));
        for (line, text) in lines.iter().zip(text.into_iter().chain(anomalies)) {
            line.set_message(text);
        }
    }

    /// Takes the picture away.
    pub(crate) fn end(self) {
        logging::set_picture(None);
        if let Self::Live { multi, lines, .. } = self {
            for line in lines {
                line.finish_and_clear();
            }
            let _ = multi.clear();
        }
    }
}
