//! `dead-letters`: records that were not counted, and counting them after all.

use super::Context;
use crate::connect::patiently;
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, output, wire};
use fleetscore_aggregator::{ReplayReport, SystemClock, replay_dead_letters};
use fleetscore_decode::Decoder;
use fleetscore_schemas::reading::{Messages, TopicPartition};
use fleetscore_store::{DeadLetterFilter, DeadLetterRow, Store};
use serde_json::json;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(flatten)]
    list: List,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Dead letters, oldest first.
    List(List),
    /// One dead letter, with its bytes.
    Show {
        /// Its id.
        id: i64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Decode them anew with the present settings, and count those that can be counted now.
    Replay(Replay),
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(false).args(["ids", "code", "all"])))]
struct Replay {
    /// These ids.
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// All with this code.
    #[arg(long)]
    code: Option<String>,
    /// All that were not replayed yet.
    #[arg(long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    /// With this code.
    #[arg(long)]
    code: Option<String>,
    /// Only those not replayed yet.
    #[arg(long)]
    unreplayed: bool,
    /// Only those with a higher id.
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// At most so many; 0 = all.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Outcome {
    let store = connect::store(&context.config, &context.shutdown).await?;
    match args.command.unwrap_or(Command::List(args.list)) {
        Command::List(list_args) => list(&list_args, &*store).await,
        Command::Show { id, json } => show(id, json, &*store).await,
        Command::Replay(args) => replay(args, context, &*store).await,
    }
}

async fn list(args: &List, store: &dyn Store) -> Outcome {
    let filter = DeadLetterFilter {
        ids: None,
        code: args.code.clone(),
        unreplayed: args.unreplayed,
        after_id: args.after,
        limit: if args.limit == 0 { usize::MAX } else { args.limit },
    };
    let rows = store.dead_letters(&filter).await?;
    if args.json {
        output::print(&serde_json::Value::from_iter(rows.iter().map(as_json)).to_string());
        return Ok(Done::All);
    }
    let headings = ["id", "partition", "offset", "position", "code", "count", "replayed", "detail"];
    let row = |r: &DeadLetterRow| {
        vec![
            r.id.to_string(),
            r.partition.to_string(),
            r.last_offset.map_or_else(|| r.offset.to_string(), |last| format!("{}..{last}", r.offset)),
            r.position.to_string(),
            r.code.clone(),
            r.count.to_string(),
            output::time_or_dash(r.replayed_at),
            r.detail.clone(),
        ]
    };
    output::print(&output::table(&headings, rows.iter().map(row)));
    Ok(Done::All)
}

async fn show(id: i64, as_object: bool, store: &dyn Store) -> Outcome {
    let filter = DeadLetterFilter { ids: Some(vec![id]), limit: 1, ..DeadLetterFilter::default() };
    let row = store.dead_letters(&filter).await?.pop();
    let row = row.ok_or_else(|| Fail::user(format!("there is no dead letter {id}")))?;
    if as_object {
        output::print(&as_json(&row).to_string());
        return Ok(Done::All);
    }
    let payload = row.payload.as_deref().map_or("-".to_owned(), |p| String::from_utf8_lossy(p).into_owned());
    let rows = [
        ("id", row.id.to_string()),
        ("partition", row.partition.to_string()),
        ("offset", row.offset.to_string()),
        ("position", row.position.to_string()),
        ("code", row.code.clone()),
        ("detail", row.detail.clone()),
        ("broker time", output::time_or_dash(row.broker_time)),
        ("recorded at", output::time(row.recorded_at)),
        ("replayed at", output::time_or_dash(row.replayed_at)),
        ("count", row.count.to_string()),
        ("sensors", if row.sensors.is_empty() { "all".to_owned() } else { row.sensors.join(", ") }),
    ];
    output::print(&output::table(&["field", "value"], rows.map(|(k, v)| vec![k.to_owned(), v])));
    output::print(&payload);
    Ok(Done::All)
}

/// Dead letters read, decoded and merged at a time: of up to a mebibyte each.
const CHUNK: usize = 128;

async fn replay(args: Replay, context: &Context, store: &dyn Store) -> Outcome {
    let mut total = ReplayReport::default();
    let (mut after, mut without_bytes) = (None, 0);
    loop {
        let filter = DeadLetterFilter {
            ids: if args.ids.is_empty() { None } else { Some(args.ids.clone()) },
            code: args.code.clone(),
            unreplayed: true,
            after_id: after,
            limit: CHUNK,
        };
        let rows = patiently("the store", &context.shutdown, || store.dead_letters(&filter)).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.id);
        without_bytes += rows.iter().filter(|r| r.payload.is_none()).count();
        let report = context.shutdown.unless(replay_chunk(rows, context, store)).await??;
        total.replayed.extend(report.replayed);
        total.refused.extend(report.refused);
        total.readings += report.readings;
        total.filtered += report.filtered;
    }
    print_replay(&args, &total, without_bytes);
    match (total.replayed.is_empty(), total.refused.is_empty() && without_bytes == 0) {
        (_, true) => Ok(Done::All),
        (false, false) => Ok(Done::Partly),
        (true, false) => Err(Fail::work("none of them can be counted with the present settings")),
    }
}

async fn replay_chunk(
    rows: Vec<DeadLetterRow>,
    context: &Context,
    store: &dyn Store,
) -> Result<ReplayReport, Fail> {
    let (mut messages, mut letters) = (Messages::default(), Vec::new());
    for mut row in rows {
        // The bytes move into the messages: a chunk of large records is not held twice.
        if let Some(payload) = row.payload.take() {
            messages.push(messages.len() as i64, row.broker_time, &payload);
            letters.push(row);
        }
    }
    if letters.is_empty() {
        return Ok(ReplayReport::default());
    }
    let config = &context.config;
    let to = messages.len() as i64;
    let mut decoder = Decoder::new(0, wire::decode_options(config));
    let batch = decoder.decode(TopicPartition::new("dead letters", 0), 0, 0, to, messages, &[]);
    let options = wire::aggregator(config, wire::process_name());
    Ok(replay_dead_letters(&options, store, &SystemClock::new(), &letters, batch).await?)
}

fn print_replay(args: &Replay, total: &ReplayReport, without_bytes: usize) {
    if args.json {
        let refused =
            total.refused.iter().map(|(id, code, why)| json!({"id": id, "code": code.as_str(), "why": why}));
        let value = json!({
            "replayed": total.replayed,
            "readings": total.readings,
            "filtered": total.filtered,
            "refused": refused.collect::<Vec<_>>(),
            "without_payload": without_bytes,
        });
        output::print(&value.to_string());
        return;
    }
    if !total.refused.is_empty() {
        let rows =
            total.refused.iter().map(|(id, code, why)| vec![id.to_string(), code.to_string(), why.clone()]);
        output::print(&output::table(&["refused", "code", "detail"], rows));
    }
    let overflow = match without_bytes {
        0 => String::new(),
        n => format!(", {n} rows without bytes (their records can be read from Kafka: docs/limits.md)"),
    };
    output::print(&format!(
        "{} replayed ({} readings, {} filtered out), {} refused{overflow}",
        total.replayed.len(),
        total.readings,
        total.filtered,
        total.refused.len()
    ));
}

fn as_json(r: &DeadLetterRow) -> serde_json::Value {
    let text = r.payload.as_deref().and_then(|p| std::str::from_utf8(p).ok());
    let hex = || r.payload.as_deref().map(|p| p.iter().map(|b| format!("{b:02x}")).collect::<String>());
    json!({
        "id": r.id,
        "topic": &*r.partition.topic,
        "kafka_partition": r.partition.partition,
        "kafka_offset": r.offset,
        "position": r.position,
        "code": r.code,
        "detail": r.detail,
        "payload": text,
        // Bytes that are no text have no other form in JSON.
        "payload_hex": if text.is_none() { hex() } else { None },
        "broker_time": r.broker_time.map(|t| t.to_rfc3339()),
        "recorded_at": r.recorded_at.to_rfc3339(),
        "replayed_at": r.replayed_at.map(|t| t.to_rfc3339()),
        "count": r.count,
        "last_offset": r.last_offset,
        "sensors": r.sensors,
    })
}
