//! `send`: a producer.

use super::Context;
use crate::connect::patiently;
use crate::exit::{Done, Fail, Outcome};
use crate::send::csv::Reading;
use crate::send::pace::Pace;
use crate::send::pack::{Message, Packer, Shape};
use crate::send::{check, csv, simulate};
use crate::{output, wire};
use fleetscore_ingest::admin::create_topic;
use fleetscore_ingest::producer::Delivery;
use fleetscore_ingest::{IngestError, Producer};
use fleetscore_schemas::time::{Timestamp, US_PER_S};
use fleetscore_settings::units;
use fleetscore_simulator::FleetOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the last messages may take to be acknowledged.
const FLUSH: Duration = Duration::from_secs(60);
/// How long one look for the broker and the topic takes.
const READY: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["csv", "simulate", "check"])))]
pub(super) struct Args {
    /// A file with columns ts or timestamp, device, sensor, value or val, in any case and order; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// A simulated fleet, for ever or for --duration.
    #[arg(long)]
    simulate: bool,
    /// Do not send: decode each line of this file as a message and print what is wrong; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// At most so many readings a second.
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,
    /// So many seconds of event time a second.
    #[arg(long, value_name = "X", value_parser = positive)]
    speed: Option<f64>,
    /// So many readings of one device in a message (with wide: so many objects).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    packed: u32,
    /// Shape of the messages [default: single; array where packed].
    #[arg(long, value_enum)]
    format: Option<Shape>,
    /// Create the topic with so many partitions where it does not exist.
    #[arg(long, value_name = "PARTITIONS", value_parser = clap::value_parser!(i32).range(1..))]
    create_topic: Option<i32>,
    /// Devices to simulate.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Sensors of each device to simulate.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    sensors: u32,
    /// The same seed gives the same fleet and the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of event time to simulate.
    #[arg(long, value_name = "DURATION", value_parser = units::duration_us)]
    duration: Option<i64>,
    /// One reading of each simulated series in this time.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::duration_us)]
    period: i64,
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|x| x.is_finite() && *x > 0.0)
        .ok_or_else(|| format!("`{text}` is not a number above 0"))
}

impl Args {
    /// Whether it sends until it is told to end.
    pub(super) fn lasting(&self) -> bool {
        self.simulate && self.duration.is_none()
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Outcome {
    if let Some(path) = &args.check {
        return check::run(path, wire::decode_options(&context.config), chrono::Utc::now().into());
    }
    let shape = args.format.unwrap_or(if args.packed > 1 { Shape::Array } else { Shape::Single });
    if shape == Shape::Single && args.packed > 1 {
        return Err(Fail::user("--packed: a message of the format single holds one reading"));
    }
    let config = &context.config;
    let (brokers, topic) = (config.require_kafka()?, config.one_topic()?);
    // Before the broker is asked: a file that cannot be read needs none.
    let (mut source, pace) = Source::open(&args)?;
    if let Some(partitions) = args.create_topic {
        let create = || create_topic(brokers, &config.kafka_properties, topic, partitions);
        let created = patiently("Kafka", &context.shutdown, create).await?;
        tracing::info!("topic {topic}: {created:?}");
    }
    let producer = Arc::new(Producer::open(brokers, &config.kafka_properties, topic)?);
    let what = format!("Kafka and its topic {topic}");
    patiently(&what, &context.shutdown, || {
        let producer = Arc::clone(&producer);
        blocking(move || producer.ready(READY))
    })
    .await?;
    let packer = Packer::new(shape, args.packed as usize, &config.readings.fields);
    let started = Instant::now();
    let mut sender = Sender { producer, readings: 0, messages: 0 };
    let end = sender.send_all(&mut source, pace, packer, context).await;
    let sent = sender.finish(started, topic, &source).await;
    // A mistake in the source comes first; what was sent before it is told all the same.
    match end {
        Ok(_) | Err(Fail::Stopped) => sent.and(end),
        fail => fail,
    }
}

/// Where readings come from.
enum Source {
    Csv(csv::CsvReadings<Box<dyn std::io::Read + Send>>),
    Simulated(Box<simulate::Simulated>),
}

impl Source {
    fn open(args: &Args) -> Result<(Self, Pace), Fail> {
        if let Some(path) = &args.csv {
            let pace = Pace { rate: args.rate, speed: args.speed, clock: None };
            return Ok((Self::Csv(csv::open(path)?), pace));
        }
        let now = chrono::Utc::now().into();
        let plan = simulate::plan(now, args.duration, args.speed, args.rate);
        let options = FleetOptions {
            devices: args.devices,
            sensors: args.sensors,
            seed: args.seed,
            period_us: args.period.max(1_000),
            start_us: plan.start.0,
            faults_from_us: plan.start.0,
            fault_rate: 0.005,
            fault_len_us: (120 * US_PER_S, 600 * US_PER_S),
            ..FleetOptions::default()
        };
        Ok((Self::Simulated(Box::new(simulate::Simulated::new(options, plan.end))), plan.pace))
    }
}

impl Iterator for Source {
    type Item = Result<Reading, Fail>;
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Csv(readings) => readings.next(),
            Self::Simulated(fleet) => fleet.next().map(Ok),
        }
    }
}

struct Sender {
    producer: Arc<Producer>,
    readings: usize,
    messages: u64,
}

impl Sender {
    async fn send_all(
        &mut self,
        source: &mut Source,
        pace: Pace,
        mut packer: Packer,
        context: &Context,
    ) -> Outcome {
        let started = Instant::now();
        let mut stopped = false;
        let mut first: Option<Timestamp> = None;
        for (index, reading) in (0_u64..).zip(source) {
            let reading = reading?;
            let due = pace.due(index, *first.get_or_insert(reading.ts), reading.ts);
            let wait = due.saturating_sub(started.elapsed());
            if wait > Duration::from_millis(1)
                && context.shutdown.unless(tokio::time::sleep(wait)).await.is_err()
            {
                stopped = true;
                break;
            }
            if let Some(message) = packer.push(reading) {
                self.send(message).await?;
            }
            if context.shutdown.token().is_cancelled() {
                stopped = true;
                break;
            }
        }
        for message in packer.finish() {
            self.send(message).await?;
        }
        if stopped { Err(Fail::Stopped) } else { Ok(Done::All) }
    }

    async fn send(&mut self, message: Message) -> Result<(), Fail> {
        self.readings += message.readings;
        self.messages += 1;
        Ok(self.producer.send(message.key.as_bytes(), message.payload.as_bytes(), None).await?)
    }

    /// Waits until all is acknowledged, and says so.
    async fn finish(&mut self, started: Instant, topic: &str, source: &Source) -> Result<(), Fail> {
        let producer = Arc::clone(&self.producer);
        let Delivery { delivered, failed, first_failure, .. } =
            blocking(move || producer.flush(FLUSH)).await?;
        let faults = match source {
            Source::Simulated(fleet) => format!(", {} faults injected", fleet.faults()),
            Source::Csv(_) => String::new(),
        };
        output::print(&format!(
            "{} readings in {} messages to {topic} in {:.1} s, {delivered} messages acknowledged{faults}",
            self.readings,
            self.messages,
            started.elapsed().as_secs_f64(),
        ));
        if failed == 0 && delivered == self.messages {
            return Ok(());
        }
        let why = first_failure.map_or(String::new(), |f| format!(": {f}"));
        Err(Fail::work(format!("{} messages were not delivered{why}", self.messages - delivered)))
    }
}

/// Calls of the producer that block.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, IngestError> + Send + 'static,
) -> Result<T, IngestError> {
    tokio::task::spawn_blocking(call).await.unwrap_or_else(|e| Err(IngestError::Internal(e.to_string())))
}
