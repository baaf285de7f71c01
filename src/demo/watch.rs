//! Watches the demo: trains when the training stretch is stored, notes every scored interval, keeps the picture.

use super::Wish;
use super::feed::Feed;
use super::picture::{Picture, Scene, Told};
use super::quality::{Quality, Scored, Summary};
use super::setting::Stage;
use crate::exit::Fail;
use crate::output;
use crate::roles::{Handles, Running};
use fleetscore_schemas::SeriesName;
use fleetscore_schemas::status::{PredictionStatus, RunState};
use fleetscore_schemas::time::{Interval, PaneGrid, Timestamp};
use fleetscore_schemas::window::Feature;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{self, ModelSet};
use fleetscore_scorer::output::rows::rows;
use fleetscore_settings::units::show_duration;
use fleetscore_simulator::{Fault, Fleet};
use fleetscore_store::{RunFilter, RunRow};
use futures::TryStreamExt;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the demo looks at itself.
const LOOK: Duration = Duration::from_millis(200);
/// A model's share of training rows outside its range, at most. The training stretch is healthy, so little: the
/// smaller, the fewer false alarms.
const NU: f64 = 0.005;
/// Of inputs scaled to deviation 1. So few support vectors lie at both ends of the range; a kernel narrower than this
/// would leave a hole between them.
const GAMMA: f64 = 0.1;
/// Windows of a fit, evenly spaced: fitting takes time by the square of them.
const MAX_ROWS: usize = 300;

pub(crate) struct Watch {
    handles: Handles,
    blobs: Option<Blobs>,
    feed: Arc<Feed>,
    grid: PaneGrid,
    live: Interval,
    disorder_us: i64,
    wanted: Option<usize>,
    names: HashMap<SeriesName, u32>,
    ranges: HashMap<SeriesName, String>,
    quality: Quality,
    noted: HashSet<uuid::Uuid>,
    picture: Option<Picture>,
    started: Instant,
    trained: bool,
    first_told: bool,
    rate: Rate,
}

/// Readings a second over the last looks.
struct Rate {
    at: Instant,
    readings: u64,
    a_second: f64,
}

impl Watch {
    pub(crate) fn new(
        stage: &Stage,
        wish: &Wish,
        running: &Running,
        feed: Arc<Feed>,
        started: Instant,
    ) -> Self {
        let fleet = Fleet::new(stage.fleet(wish));
        let name = |s| (SeriesName::new(fleet.device(s), fleet.sensor(s)), s);
        let config = &stage.config;
        Self {
            handles: running.handles.clone(),
            blobs: running.blobs.clone(),
            feed,
            grid: PaneGrid { len_us: config.interval_us, edges: config.edges },
            live: Interval { start: stage.live_from, end: Timestamp::END_EVENT },
            disorder_us: config.max_disorder_us,
            wanted: wish.intervals.map(|n| n as usize),
            names: (0..fleet.series()).map(name).collect(),
            ranges: HashMap::new(),
            quality: Quality::new(config.interval_us),
            noted: HashSet::new(),
            picture: Some(Picture::new()),
            started,
            trained: false,
            first_told: false,
            rate: Rate { at: started, readings: 0, a_second: 0.0 },
        }
    }

    /// Watches until as many intervals are scored as were asked for.
    ///
    /// # Errors
    /// Where training or the store fails for good.
    pub(crate) async fn run(&mut self) -> Result<(), Fail> {
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.trained && self.training_stretch_is_stored().await? {
                self.train().await?;
            }
            if self.trained {
                self.note_runs().await?;
            }
            self.draw();
            if self.wanted.is_some_and(|n| self.quality.intervals() >= n) {
                return Ok(());
            }
        }
    }

    /// Takes the picture away; the last word.
    pub(crate) fn end(&mut self) -> Summary {
        if let Some(picture) = self.picture.take() {
            picture.end();
        }
        self.quality.summary(&self.feed.faults())
    }

    fn say(&self, text: &str) {
        if let Some(picture) = &self.picture {
            picture.say(text);
        }
    }

    /// Every partition's stored watermark has passed the beginning of the faults, or the partition is empty.
    async fn training_stretch_is_stored(&self) -> Result<bool, Fail> {
        if self.feed.event_us.load(Ordering::Relaxed) < self.live.start.0 + self.disorder_us {
            return Ok(false);
        }
        let progress = self.handles.store.progress().await?;
        let passed = |w: Option<Timestamp>| w.is_some_and(|w| self.grid.passed(w, self.live.start));
        let some = progress.rows.iter().any(|r| passed(r.watermark));
        Ok(some && progress.rows.iter().all(|r| passed(r.watermark) || r.next_offset == 0))
    }

    async fn train(&mut self) -> Result<(), Fail> {
        let Some(blobs) = self.blobs.clone() else { return Ok(()) };
        let begun = Instant::now();
        let options = models::TrainOptions {
            to: Some(self.live.start),
            features: vec![Feature::Mean],
            nu: NU,
            gamma: models::Gamma::Value(GAMMA),
            max_rows: MAX_ROWS,
            tolerance: 1e-5,
            created_by: "demo".to_owned(),
            ..models::TrainOptions::new(self.grid.len_us)
        };
        let store = self.handles.store.as_ref();
        let report = models::train(store, &blobs, &options).await?;
        self.say(&format!(
            "trained   {} models on {} healthy intervals in {:.1} s: model set {} is active; faults begin",
            report.trained,
            super::setting::TRAINING,
            begun.elapsed().as_secs_f64(),
            report.version
        ));
        let sets = store.model_sets().await?;
        if let Some(row) = sets.iter().find(|s| s.version == report.version) {
            let set = models::load(&blobs, store, row).await?;
            self.ranges = normal_ranges(&set);
        }
        self.trained = true;
        Ok(())
    }

    /// Notes the runs that ended since the last look, oldest first.
    async fn note_runs(&mut self) -> Result<(), Fail> {
        let filter = RunFilter {
            schedule: Some("default".to_owned()),
            states: vec![RunState::Succeeded, RunState::Partial],
            overlapping: Some(self.live),
            limit: 256,
            ..RunFilter::default()
        };
        let mut runs = self.handles.store.runs(&filter).await?;
        runs.retain(|r| r.interval.start >= self.live.start && !self.noted.contains(&r.run_id));
        runs.reverse();
        for run in runs {
            if self.wanted.is_some_and(|n| self.quality.intervals() >= n) {
                break;
            }
            self.note(&run).await?;
            self.noted.insert(run.run_id);
        }
        Ok(())
    }

    async fn note(&mut self, run: &RunRow) -> Result<(), Fail> {
        let batches: Vec<_> =
            self.handles.store.predictions(&run.schedule, run.interval).await?.try_collect().await?;
        let faults = self.feed.faults();
        let (mut scored, mut anomalies) = (Scored::default(), Vec::new());
        for row in batches.iter().flat_map(rows) {
            let name = SeriesName::new(row.device, row.sensor);
            // Series that somebody else sends have no labels.
            let Some(series) = self.names.get(&name).copied() else { continue };
            if row.status == PredictionStatus::NoData.as_str() {
                scored.no_data.insert(series);
            }
            if row.prediction == Some(1) {
                scored.anomalies.insert(series);
                let range = self.ranges.get(&name).map_or(String::new(), |r| format!(" outside {r}"));
                let why = fault_in(&faults, series, run.interval).map_or("no fault", |f| f.kind.as_str());
                let value = row.value.unwrap_or(f64::NAN);
                anomalies.push(format!("{name} {value:.3}{range} ({why})"));
            }
        }
        self.quality.note(run.interval.start, scored);
        if !self.first_told {
            self.first_told = true;
            self.say(&format!("first interval scored after {:.1} s", self.started.elapsed().as_secs_f64()));
        }
        let told = Told {
            start: output::time(run.interval.start),
            scored: run.counts.scored,
            anomalies,
            no_data: run.counts.no_data,
        };
        let summary = self.quality.summary(&faults);
        if let Some(picture) = &mut self.picture {
            picture.interval(&told, &summary);
        }
        Ok(())
    }

    fn draw(&mut self) {
        let Some(picture) = &self.picture else { return };
        let a = self.handles.aggregator.as_ref().map(|a| a.snapshot()).unwrap_or_default();
        let passed = self.rate.at.elapsed().as_secs_f64();
        if passed >= 1.0 {
            let a_second = a.readings.saturating_sub(self.rate.readings) as f64 / passed;
            self.rate = Rate { at: Instant::now(), readings: a.readings, a_second };
        }
        let event = Timestamp(self.feed.event_us.load(Ordering::Relaxed));
        let behind = (chrono::Utc::now().timestamp_micros() - event.0) / 1_000_000;
        let doing = match (self.trained, behind) {
            (false, _) => "sending the training stretch".to_owned(),
            (true, b) if b > 2 => {
                format!("catching up with the clock, {} behind", show_duration(b * 1_000_000))
            }
            (true, _) => "in real time".to_owned(),
        };
        picture.draw(&Scene {
            doing,
            event_time: output::time(Timestamp(event.0 - event.0.rem_euclid(1_000_000))),
            readings: a.readings,
            readings_a_second: self.rate.a_second,
            windows: a.windows,
            dead_letters: a.dead_letters.values().sum(),
            summary: self.quality.summary(&self.feed.faults()),
        });
    }
}

/// The fault of a series that overlaps an interval.
fn fault_in(faults: &[Fault], series: u32, interval: Interval) -> Option<&Fault> {
    faults.iter().find(|f| f.series == series && f.from_us < interval.end.0 && f.to_us > interval.start.0)
}

/// What each model calls normal, as text.
fn normal_ranges(set: &ModelSet) -> HashMap<SeriesName, String> {
    let range = |e: models::Entry| Some((e.name, models::ranges_text(e.normal.as_deref()?)));
    set.entries().filter_map(range).collect()
}
