//! Kafka to windows in PostgreSQL by number of series, where the series are known: what a fleet's second minute costs.
//!
//! A reading of each series comes first, in a minute of its own. The others wait in one transaction of Kafka until those are
//! committed in SQL: the product has its dictionary by then, SQL its table of names, and the clock begins.

use crate::consume::{Begin, Run, Store, Topic, consume};
use crate::fill::{Filler, PARTITIONS};
use crate::messages::{First, Fleet, count};
use crate::tables::JUDGED_FROM;
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
use fleetscore_benchmarks::server::Postgres;
use fleetscore_harness::Servers;
use std::path::{Path, PathBuf};

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE")]
    fleetscore: PathBuf,
    /// Numbers of series.
    #[arg(long, value_delimiter = ',', default_value = "1000,1000000", value_parser = clap::value_parser!(u32).range(1..))]
    series: Vec<u32>,
    /// Readings in the topic, beside a first one of each series.
    #[arg(long, default_value_t = 10_000_000, value_parser = count())]
    readings: usize,
    /// Readings of one message.
    #[arg(long, value_delimiter = ',', default_value = "1,100", value_parser = count())]
    packed: Vec<usize>,
    /// Panes of a minute that the readings span.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(i64).range(1..1440))]
    panes: i64,
    /// Repetitions of each; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = count())]
    repeats: usize,
}

/// Measures and reports.
pub(crate) fn run(args: &Args, pg_bin: &Path, report: &mut Report) -> Result<()> {
    let servers = Servers::new(&args.fleetscore);
    let postgres = Postgres::start(pg_bin)?;
    report.binary(&args.fleetscore)?;
    report.setting("server", postgres.description()?);
    let (readings, panes) = (args.readings, args.panes);
    report.setting(
        "topic",
        format!("{PARTITIONS} partitions, one broker, {readings} readings in {panes} panes of a minute"),
    );
    report.setting("seconds", "from when the series are known and the other messages are seen to the last commit, at most checkpoint_interval = 1s after the last message");
    for &packed in &args.packed {
        let mut table = Table::new(
            format!("Into PostgreSQL by number of series, all known, {packed} readings per message"),
            &[
                "series",
                "windows",
                "M readings/s",
                "least",
                "most",
                "first / this",
                "ns of PostgreSQL",
                "ns of all",
                "peak MB",
            ],
        );
        let mut first: Option<(u32, f64)> = None;
        for &series in &args.series {
            let fleet = Fleet { series, readings, packed, partitions: PARTITIONS, panes, seed: 1 };
            let mut runs = Vec::new();
            let mut windows = 0;
            for repeat in 0..args.repeats {
                eprintln!("{series} series, {packed} per message, repetition {repeat}");
                let (run, found) = one(args, &servers, &postgres, fleet, repeat)?;
                runs.push(run);
                windows = found;
            }
            let each = |figure: &dyn Fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
            let rates = each(&|run| readings as f64 / run.seconds / 1e6);
            let of_postgres = |run: &Run| run.stages.get("postgres").copied().unwrap_or(f64::NAN);
            let ns = |seconds: Vec<f64>| Cell::number(median(&seconds).map(|s| s * 1e9 / readings as f64), 0);
            let rate = median(&rates).unwrap_or(f64::NAN);
            let (few, of_few) = *first.get_or_insert((series, rate));
            let [shown, least, most] = Cell::spread(&rates, 2);
            table.row(vec![
                u64::from(series).into(),
                windows.into(),
                shown,
                least,
                most,
                Cell::number(of_few / rate, 2),
                ns(each(&of_postgres)),
                ns(each(&|run| run.cpu)),
                Cell::megabytes(runs.iter().filter_map(|run| run.peak_bytes).max()),
            ]);
            if (few, series) == (1_000, 1_000_000) && readings >= JUDGED_FROM {
                let what = format!("known series, {packed} per message: readings/s of 1 k / of 1 M series");
                report.goal(Goal::at_most(what, 2.0, of_few / rate));
            }
        }
        report.table(table);
    }
    servers.stop();
    Ok(())
}

/// One consumption, and how many windows it left.
fn one(
    args: &Args,
    servers: &Servers,
    postgres: &Postgres,
    fleet: Fleet,
    repeat: usize,
) -> Result<(Run, u64)> {
    let kafka = servers.kafka();
    let Fleet { series, packed, .. } = fleet;
    let name = format!("known-{packed}-{series}-{repeat}");
    kafka.create_topic(&name, PARTITIONS as i32);
    let made = fleet.warmed(First::InAPaneBefore);
    let first = Filler::new(&kafka, None)?.send(&name, &made.first)?;
    let others = Filler::new(&kafka, Some(&name))?;
    let messages = first + others.send(&name, &made.batches)?;
    let sums = made.sums;
    drop(made);
    let begin = Begin::Committed { messages: first, then: &|| others.commit() };
    let topic = Topic { kafka: &kafka, name: &name, sums, messages, begin };
    let run = consume(&args.fleetscore, topic, Store::Postgres(postgres, &name.replace('-', "_")), None)?;
    kafka.delete_topic(&name);
    Ok((run, sums.windows))
}
