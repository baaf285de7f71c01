//! `models list`, `show` and `failures`: what sets there are and what is in them.

use super::models::{find, load, set_bytes};
use super::models_pins::pattern;
use crate::exit::{Done, Outcome};
use crate::output;
use fleetscore_kernel::Columns;
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models::{self, ModelSet, Shard};
use fleetscore_store::{ModelFailure, ModelSetRow, Store};
use regex::Regex;
use serde_json::json;

/// Rows that are shown on a terminal.
const ROWS: usize = 50;
/// Characters of a checksum that tell sets apart.
const CHECKSUM: usize = 12;

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Its version [default: the active one].
    version: Option<i64>,
    /// Only models whose device/sensor matches this regular expression.
    #[arg(long, value_name = "REGEX", value_parser = pattern)]
    series: Option<Regex>,
    /// At most so many models; 0 = all [default: 50 on a terminal, else all].
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Failures {
    /// The set's version [default: the active one].
    version: Option<i64>,
    /// At most so many; 0 = all [default: 50 on a terminal, else all].
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(as_json: bool, store: &dyn Store) -> Outcome {
    let sets = store.model_sets().await?;
    if as_json {
        output::print(&serde_json::Value::from_iter(sets.iter().map(set_json)).to_string());
        return Ok(Done::All);
    }
    let row = |s: &ModelSetRow| {
        vec![
            s.version.to_string(),
            if s.active { "active".to_owned() } else { String::new() },
            s.models.to_string(),
            s.refused.to_string(),
            s.features.join(","),
            s.origin.clone(),
            trained_on(s),
            s.training_rows.map_or("-".to_owned(), |n| n.to_string()),
            s.checksum.chars().take(CHECKSUM).collect(),
            s.created_by.clone(),
            output::time(s.created_at),
            s.path.clone(),
        ]
    };
    let headings = [
        "version",
        "",
        "models",
        "refused",
        "features",
        "origin",
        "trained on",
        "rows",
        "checksum",
        "created by",
        "created at",
        "path",
    ];
    output::print(&output::table(&headings, sets.iter().map(row)));
    Ok(Done::All)
}

fn trained_on(s: &ModelSetRow) -> String {
    s.trained_on.map_or("-".to_owned(), |i| format!("{} .. {}", output::time(i.start), output::time(i.end)))
}

fn set_json(s: &ModelSetRow) -> serde_json::Value {
    json!({
        "version": s.version,
        "active": s.active,
        "models": s.models,
        "refused": s.refused,
        "features": s.features,
        "origin": s.origin,
        "checksum": s.checksum,
        "trained_from": s.trained_on.map(|i| i.start.to_rfc3339()),
        "trained_to": s.trained_on.map(|i| i.end.to_rfc3339()),
        "training_rows": s.training_rows,
        "note": s.note,
        "created_by": s.created_by,
        "created_at": s.created_at.to_rfc3339(),
        "path": s.path,
    })
}

pub(super) async fn show(args: &Show, store: &dyn Store, blobs: &Blobs) -> Outcome {
    let row = find(args.version, store).await?;
    let manifest = models::manifest(blobs, &row).await?;
    let set = load(&row, store, blobs).await?;
    let limit = output::limit(args.limit, ROWS);
    if args.json {
        let mut head = set_json(&row);
        head["bytes"] = json!(set_bytes(&manifest));
        head["parts"] = json!(manifest.parts.len());
        show_json(&head, &set, args, limit);
        return Ok(Done::All);
    }
    let failures = store.model_failures(row.version).await?.len();
    let pins = store.model_pins().await?.iter().filter(|p| p.version == row.version).count();
    let size = format!("{} in {} parts", output::bytes(set_bytes(&manifest)), manifest.parts.len());
    output::print(&header(&row, &size, failures, pins));
    let rows = || chosen(&set, args).take(limit).map(|(shard, at)| cells(shard, &shard.columns(), at));
    output::print_rows(&["device", "sensor", "model", "support vectors", "rows", "normal range"], rows);
    let more = chosen(&set, args).count().saturating_sub(limit);
    if more > 0 {
        output::print(&format!("… and {more} more (--json or --limit lists them)"));
    }
    Ok(Done::All)
}

/// What is known of a set, line by line.
fn header(s: &ModelSetRow, size: &str, failures: usize, pins: usize) -> String {
    let active = if s.active { " (active)" } else { "" };
    let rows = s.training_rows.map_or(String::new(), |n| format!(", {n} rows"));
    let mut lines = vec![
        format!("model set {}{active}", s.version),
        format!("  models      {}, {} refused", s.models, s.refused),
        format!("  features    {}", s.features.join(", ")),
        format!("  trained on  {}{rows}", trained_on(s)),
        format!("  made by     {} of {} at {}", s.origin, s.created_by, output::time(s.created_at)),
        format!("  checksum    {}", s.checksum),
        format!("  size        {size}, {}", s.path),
    ];
    lines.extend(s.note.as_ref().map(|note| format!("  note        {note}")));
    if failures > 0 {
        lines.push(format!("  failures    {failures} (fleetscore models failures {})", s.version));
    }
    if pins > 0 {
        lines.push(format!("  pins        {pins} series are pinned to it"));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The models that were asked for: shards with rows.
fn chosen<'a>(set: &'a ModelSet, args: &'a Show) -> impl Iterator<Item = (&'a Shard, usize)> + 'a {
    let all = set.shards().iter().flat_map(|shard| (0..shard.len()).map(move |at| (shard, at)));
    all.filter(|(shard, at)| {
        let matches = |r: &Regex| r.is_match(&format!("{}/{}", shard.device(*at), shard.sensor(*at)));
        args.series.as_ref().is_none_or(matches)
    })
}

fn vectors(columns: &Columns<'_>, at: usize) -> i32 {
    columns.offsets[at + 1] - columns.offsets[at]
}

fn normal(shard: &Shard, at: usize) -> Option<Vec<(f64, f64)>> {
    let (from, to) = shard.normal(at)?;
    Some(from.iter().copied().zip(to.iter().copied()).collect())
}

fn cells(shard: &Shard, columns: &Columns<'_>, at: usize) -> Vec<String> {
    let (vectors, note) = match shard.refused(at) {
        Some(why) => ("-".to_owned(), format!("refused: {why}")),
        None => (
            vectors(columns, at).to_string(),
            normal(shard, at).map_or(String::new(), |n| models::ranges_text(&n)),
        ),
    };
    vec![
        shard.device(at).to_owned(),
        shard.sensor(at).to_owned(),
        shard.model_name(at).into_owned(),
        vectors,
        shard.rows(at).map_or("-".to_owned(), |n| n.to_string()),
        note,
    ]
}

/// One object, its entries written one by one.
fn show_json(head: &serde_json::Value, set: &ModelSet, args: &Show, limit: usize) {
    let head = head.to_string();
    let mut out = output::Writer::new();
    out.write(head.strip_suffix('}').unwrap_or(&head));
    out.write(",\"entries\":[");
    for (i, (shard, at)) in chosen(set, args).take(limit).enumerate() {
        let columns = shard.columns();
        let refused = shard.refused(at);
        let of_model = |v: serde_json::Value| if refused.is_none() { v } else { serde_json::Value::Null };
        let entry = json!({
            "device": shard.device(at),
            "sensor": shard.sensor(at),
            "model": shard.model_name(at),
            "support_vectors": of_model(json!(vectors(&columns, at))),
            "features": of_model(json!(shard.features())),
            "rows": shard.rows(at),
            "normal": normal(shard, at),
            "refused": refused,
        });
        out.write(if i > 0 { ",\n" } else { "\n" });
        out.write(&entry.to_string());
    }
    out.write("]}\n");
}

pub(super) async fn failures(args: &Failures, store: &dyn Store) -> Outcome {
    let row = find(args.version, store).await?;
    let failures = store.model_failures(row.version).await?;
    if args.json {
        let one = |f: &ModelFailure| {
            json!({
                "device": f.series.as_ref().map(|s| &s.device),
                "sensor": f.series.as_ref().map(|s| &s.sensor),
                "source": f.source,
                "reason": f.reason,
            })
        };
        output::print(&serde_json::Value::from_iter(failures.iter().map(one)).to_string());
        return Ok(Done::All);
    }
    let limit = output::limit(args.limit, ROWS);
    let rows = || {
        failures.iter().take(limit).map(|f| {
            let (device, sensor) =
                f.series.as_ref().map_or(("-", "-"), |s| (s.device.as_str(), s.sensor.as_str()));
            vec![device.to_owned(), sensor.to_owned(), f.source.clone(), f.reason.clone()]
        })
    };
    output::print_rows(&["device", "sensor", "source", "reason"], rows);
    let more = failures.len().saturating_sub(limit);
    if more > 0 {
        output::print(&format!("… and {more} more (--json or --limit lists them)"));
    }
    Ok(Done::All)
}
