//! Messages to panes on one core, by the product's own service: a source that decodes canned messages stands for Kafka, a
//! store that counts what a checkpoint brings stands for SQL.

use crate::core::{Timer, only_one};
use crate::decode::{JUDGED_FROM, judge, millions};
use crate::messages::{Batch, First, Fleet, Made, PANE_US, START_US, count};
use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use async_trait::async_trait;
use fleetscore_aggregator::{ManualClock, Options};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
use fleetscore_decode::{DecodeOptions, Decoder};
use fleetscore_schemas::delta::columns;
use fleetscore_schemas::reading::TopicPartition;
use fleetscore_schemas::stream::{Command, PartitionOffsets, ReadingSource, SourceEvent};
use fleetscore_schemas::time::{Edges, Timestamp};
use fleetscore_store::forward::Forward;
use fleetscore_store::{Checkpoint, MemoryStore, Outcome, PaneSettings, Store};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Numbers of series.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000", value_parser = clap::value_parser!(u32).range(1..))]
    series: Vec<u32>,
    /// Readings of one repetition.
    #[arg(long, default_value_t = 10_000_000, value_parser = count())]
    readings: usize,
    /// Readings of one message.
    #[arg(long, value_delimiter = ',', default_value = "1,100", value_parser = count())]
    packed: Vec<usize>,
    /// Repetitions; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = count())]
    repeats: usize,
    /// Panes that the readings span.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(i64).range(1..=1440))]
    panes: i64,
    /// Memory between checkpoints, in MiB.
    #[arg(long, default_value_t = 256)]
    checkpoint_mib: usize,
}

/// Goals for single readings: series, millions of readings per second.
const GOALS: [(u32, f64); 2] = [(10_000, 7.0), (1_000_000, 3.0)];

/// Measures and reports.
pub(crate) fn run(args: &Args, report: &mut Report) -> Result<()> {
    report.setting(
        "one core",
        if only_one() {
            "by its affinity; time of the processor counts"
        } else {
            "time of the processor counts"
        },
    );
    report.setting(
        "checkpoint_bytes",
        format!("{} MiB, no other reason for a checkpoint", args.checkpoint_mib),
    );
    report.setting("repetitions", format!("{} of {} readings", args.repeats, args.readings));
    fleetscore_aggregator::memory::keep_freed(args.checkpoint_mib << 20);
    let mut table = Table::new(
        "JSON to panes, one core, no broker",
        &[
            "series",
            "readings per message",
            "M readings/s",
            "least",
            "most",
            "windows",
            "rows of deltas",
            "checkpoints",
        ],
    );
    for &packed in &args.packed {
        let mut by_series = BTreeMap::new();
        for &series in &args.series {
            let fleet =
                Fleet { series, readings: args.readings, packed, partitions: 8, panes: args.panes, seed: 1 };
            let made = fleet.warmed(First::InFirstPane);
            let (sums, timed) = (made.sums, made.sums.readings - u64::from(series));
            let mut rates = Vec::new();
            let mut last = Counted::default();
            for _ in 0..args.repeats {
                let (counted, took) = one(fleet, made.clone(), args.checkpoint_mib << 20)?;
                if (counted.readings, counted.sum) != (sums.readings, sums.sum) || counted.rows < sums.windows
                {
                    return Err(format!("panes hold {counted:?}, and there are {sums:?}").into());
                }
                rates.push(millions(timed, took));
                last = counted;
            }
            let [middle, least, most] = Cell::spread(&rates, 2);
            table.row(vec![
                u64::from(series).into(),
                (packed as u64).into(),
                middle,
                least,
                most,
                sums.windows.into(),
                last.rows.into(),
                last.checkpoints.into(),
            ]);
            let rate = median(&rates).unwrap_or(0.0);
            by_series.insert(series, rate);
            if packed == 1 {
                judge(report, "JSON to panes", &GOALS, fleet, rate);
            }
        }
        if let (Some(few), Some(many)) = (by_series.get(&1_000), by_series.get(&1_000_000))
            && args.readings >= JUDGED_FROM
        {
            let what = format!("readings/s of 1 k series / of 1 M series, {packed} per message");
            report.goal(Goal::at_most(what, 2.0, few / many));
        }
    }
    report.table(table);
    Ok(())
}

/// What checkpoints have brought.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    readings: u64,
    sum: f64,
    rows: u64,
    checkpoints: u64,
}

/// One service over all messages. Time counts from when it knows all series, as after the first minute of its life, to the
/// end of its last checkpoint.
fn one(fleet: Fleet, made: Made, bytes: usize) -> Result<(Counted, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let clock = Arc::new(ManualClock::new(Timestamp(START_US + fleet.panes * PANE_US + 86_400_000_000)));
        let memory = MemoryStore::new();
        memory.migrate().await?;
        let store = Arc::new(Counting { inner: memory, counted: Mutex::default() });
        let panes = PaneSettings {
            interval_us: PANE_US,
            edges: Edges::Start,
            filter: String::new(),
            value: String::new(),
            ts_unit: "ms".into(),
        };
        let options = Options {
            checkpoint_bytes: bytes,
            checkpoint_interval_us: 3_600_000_000,
            ..Options::new("benchmark", panes)
        };
        let stop = CancellationToken::new();
        let timer = Arc::new(Mutex::new(None));
        let source = Canned::new(fleet, made, stop.clone(), Arc::clone(&timer));
        let (service, _) = fleetscore_aggregator::service(options, store.clone(), Box::new(source), clock)?;
        service.run(stop).await?;
        let began: Option<Timer> = *timer.lock().unwrap_or_else(PoisonError::into_inner);
        let took = began.ok_or("the service never came to the messages")?.took();
        let counted = *store.counted.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((counted, took))
    })
}

/// A store in memory that only counts the deltas of a checkpoint.
#[derive(Debug)]
struct Counting {
    inner: MemoryStore,
    counted: Mutex<Counted>,
}

#[async_trait]
impl Forward for Counting {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

    async fn checkpoint(&self, checkpoint: &Checkpoint) -> fleetscore_store::Result<Outcome> {
        let deltas = &checkpoint.deltas;
        let column = |name: &str| deltas.column_by_name(name);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let counts =
            column(columns::COUNT).map(|c| c.as_primitive::<Int64Type>().values().iter().sum::<i64>());
        let sum = column(columns::SUM).map(|c| c.as_primitive::<Float64Type>().values().iter().sum::<f64>());
        counted.readings += counts.unwrap_or(0).unsigned_abs();
        counted.sum += sum.unwrap_or(f64::NAN);
        counted.rows += deltas.num_rows() as u64;
        counted.checkpoints += 1;
        Ok(Outcome::Done)
    }
}

/// Batches that are read and not aggregated yet, at most.
const IN_FLIGHT: usize = 64;

/// Held by a batch until the aggregator lets go of it.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Canned messages, decoded when they are asked for, on the asking thread.
struct Canned {
    partitions: usize,
    /// What makes all series known; behind it the time begins.
    first: std::vec::IntoIter<Batch>,
    batches: std::vec::IntoIter<Batch>,
    timer: Arc<Mutex<Option<Timer>>>,
    decoder: Decoder,
    commands: Mutex<Vec<Command>>,
    start: Option<u64>,
    assigned: bool,
    stop: CancellationToken,
    topic: Arc<str>,
    in_flight: Arc<AtomicUsize>,
}

impl Canned {
    fn new(fleet: Fleet, made: Made, stop: CancellationToken, timer: Arc<Mutex<Option<Timer>>>) -> Self {
        Self {
            partitions: fleet.partitions,
            first: made.first.into_iter(),
            batches: made.batches.into_iter(),
            timer,
            decoder: Decoder::new(1, DecodeOptions::default()),
            commands: Mutex::default(),
            start: None,
            assigned: false,
            stop,
            topic: "readings".into(),
            in_flight: Arc::default(),
        }
    }

    /// Whether the series are known and the time runs.
    fn has_begun(&self) -> bool {
        self.timer.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn partition(&self, number: usize) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topic), partition: number as i32 }
    }
}

#[async_trait]
impl ReadingSource for Canned {
    async fn next(&mut self) -> Option<SourceEvent> {
        if !std::mem::replace(&mut self.assigned, true) {
            let partitions: Vec<_> = (0..self.partitions).map(|p| self.partition(p)).collect();
            let offsets = partitions
                .iter()
                .map(|source| PartitionOffsets {
                    source: source.clone(),
                    earliest: 0,
                    latest: i64::MAX,
                    initial: 0,
                })
                .collect();
            return Some(SourceEvent::Assigned {
                assignment: 1,
                cluster: "canned".into(),
                partitions,
                offsets,
            });
        }
        loop {
            let commands = std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner));
            for command in commands {
                match command {
                    Command::Start { start, .. } => self.start = Some(start),
                    Command::Stop => return None,
                    Command::Released { .. } | Command::CommitGroup { .. } => {}
                }
            }
            let in_flight = self.in_flight.load(SeqCst);
            if let Some(start) = self.start.filter(|_| in_flight < IN_FLIGHT) {
                let mut next = self.first.next();
                if next.is_none() && (in_flight == 0 || self.has_begun()) {
                    let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
                    timer.get_or_insert_with(Timer::start);
                    next = self.batches.next();
                }
                match next {
                    Some(Batch { partition, from, messages }) => {
                        let (source, to) = (self.partition(partition), from + messages.len() as i64);
                        let mut batch = self.decoder.decode(source, start, from, to, messages, &[]);
                        self.in_flight.fetch_add(1, SeqCst);
                        batch.permit = Some(Box::new(Permit(Arc::clone(&self.in_flight))));
                        return Some(SourceEvent::Batch(Box::new(batch)));
                    }
                    None if in_flight == 0 && self.has_begun() => self.stop.cancel(),
                    None => {}
                }
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    fn command(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
    }
}
