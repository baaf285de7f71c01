//! `demo`: everything in one process.

use super::Context;
use crate::demo::{self, Wish};
use crate::exit::Outcome;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Devices of the fleet.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    devices: u32,
    /// Sensors of each device.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    sensors: u32,
    /// The same seed gives the same fleet and the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of event time a second, until event time meets the clock [default: an interval a second].
    #[arg(long, value_name = "X", value_parser = super::send::positive)]
    speed: Option<f64>,
    /// End after so many scored intervals (those of the training stretch do not count).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    intervals: Option<u32>,
    /// Port of the embedded broker [default: 19092, or a free one where that is taken].
    #[arg(long)]
    port: Option<u16>,
}

pub(super) async fn run(args: Args, context: &Context) -> Outcome {
    let Args { devices, sensors, seed, speed, intervals, port } = args;
    demo::run(&context.config, &context.shutdown, Wish { devices, sensors, seed, speed, intervals, port })
        .await
}
