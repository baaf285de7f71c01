//! Messages to Arrow columns on one core, beside serde_json on the same messages in the same run.

use crate::core::timed;
use crate::messages::{Batch, Fleet, Sums, count};
use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
use fleetscore_decode::{DecodeOptions, Decoder};
use fleetscore_schemas::reading::TopicPartition;
use serde::Deserialize;
use std::hint::black_box;
use std::time::Duration;

#[derive(Deserialize)]
#[allow(dead_code)] // parsed, not used
struct Borrowed<'a> {
    device: &'a str,
    sensor: &'a str,
    ts: &'a str,
    value: f64,
}

/// Flags.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Numbers of series.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000", value_parser = clap::value_parser!(u32).range(1..))]
    series: Vec<u32>,
    /// Readings of one repetition.
    #[arg(long, default_value_t = 6_000_000, value_parser = count())]
    readings: usize,
    /// Readings of one message.
    #[arg(long, value_delimiter = ',', default_value = "1,100", value_parser = count())]
    packed: Vec<usize>,
    /// Repetitions; medians are shown. One more warms the dictionary.
    #[arg(long, default_value_t = 5, value_parser = count())]
    repeats: usize,
}

/// Goals for single readings: series, millions of readings per second.
const GOALS: [(u32, f64); 2] = [(10_000, 8.0), (1_000_000, 5.0)];

/// Measures and reports.
pub(crate) fn run(args: &Args, report: &mut Report) -> Result<()> {
    report.setting("repetitions", format!("{} of {} readings", args.repeats, args.readings));
    let mut table = Table::new(
        "JSON to Arrow columns, one core",
        &[
            "series",
            "readings per message",
            "bytes per reading",
            "M readings/s",
            "least",
            "most",
            "general way M/s",
            "serde_json M/s",
            "ours / serde_json",
        ],
    );
    for &packed in &args.packed {
        for &series in &args.series {
            let fleet = Fleet { series, readings: args.readings, packed, partitions: 8, panes: 20, seed: 1 };
            let (batches, sums) = fleet.batches();
            let bytes: usize = batches.iter().map(|b| b.messages.payload.len()).sum();
            let mut decoder = Decoder::new(1, DecodeOptions::default());
            let mut general = Decoder::general(1, DecodeOptions::default());
            let (mut ours, mut generals, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
            for repeat in 0..=args.repeats {
                let took = decode(&mut decoder, batches.clone(), sums)?;
                let slower = decode(&mut general, batches.clone(), sums)?;
                let other = parse(&batches, packed, sums)?;
                if repeat > 0 {
                    ours.push(millions(sums.readings, took));
                    generals.push(millions(sums.readings, slower));
                    theirs.push(millions(sums.readings, other));
                }
            }
            let (a, b) = (median(&ours).unwrap_or(0.0), median(&theirs).unwrap_or(f64::NAN));
            let [middle, least, most] = Cell::spread(&ours, 2);
            table.row(vec![
                u64::from(series).into(),
                (packed as u64).into(),
                Cell::number(bytes as f64 / sums.readings as f64, 1),
                middle,
                least,
                most,
                Cell::number(median(&generals).unwrap_or(f64::NAN), 2),
                Cell::number(b, 2),
                Cell::number(a / b, 1),
            ]);
            if packed == 1 {
                judge(report, "JSON to Arrow", &GOALS, fleet, a);
            }
        }
    }
    report.table(table);
    Ok(())
}

/// Millions of readings per second.
pub(crate) fn millions(readings: u64, took: Duration) -> f64 {
    readings as f64 / took.as_secs_f64() / 1e6
}

/// Fewer readings than these are over before a processor is at its pace: no goal is judged.
pub(crate) const JUDGED_FROM: usize = 1_000_000;

/// Judges single readings of so many series by the goals for them.
pub(crate) fn judge(report: &mut Report, what: &str, goals: &[(u32, f64)], fleet: Fleet, measured: f64) {
    let Fleet { series, readings, .. } = fleet;
    for (_, goal) in goals.iter().filter(|(n, _)| *n == series && readings >= JUDGED_FROM) {
        report.goal(Goal::at_least(format!("{what}, {series} series, M readings/s"), *goal, measured));
    }
}

fn decode(decoder: &mut Decoder, batches: Vec<Batch>, sums: Sums) -> Result<Duration> {
    let source = TopicPartition::new("readings", 0);
    let (found, took) = timed(|| {
        let mut found = (0, 0.0);
        for Batch { from, messages, .. } in batches {
            let to = from + messages.len() as i64;
            let batch = decoder.decode(source.clone(), 1, from, to, messages, &[]);
            found.0 += black_box(&batch).readings.len() as u64;
            found.1 += batch.readings.value.values().iter().sum::<f64>();
        }
        found
    });
    match found == (sums.readings, sums.sum) {
        true => Ok(took),
        false => Err(format!("the decoder found {found:?}, and there are {sums:?}").into()),
    }
}

/// What any decoder on top of serde_json would do first; names and times are not looked at.
fn parse(batches: &[Batch], packed: usize, sums: Sums) -> Result<Duration> {
    let (found, took) = timed(|| -> serde_json::Result<(u64, f64)> {
        let mut found = (0, 0.0);
        for batch in batches {
            for m in 0..batch.messages.len() {
                let payload = batch.messages.message(m);
                if packed == 1 {
                    let reading: Borrowed<'_> = black_box(serde_json::from_slice(payload)?);
                    found = (found.0 + 1, found.1 + reading.value);
                } else {
                    let readings: Vec<Borrowed<'_>> = black_box(serde_json::from_slice(payload)?);
                    found.0 += readings.len() as u64;
                    found.1 += readings.iter().map(|r| r.value).sum::<f64>();
                }
            }
        }
        Ok(found)
    });
    match found? == (sums.readings, sums.sum) {
        true => Ok(took),
        false => Err("serde_json found something else than there is".into()),
    }
}
