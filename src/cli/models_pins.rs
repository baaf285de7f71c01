//! `models pin`, `unpin` and `pins`: series that are scored by one set whichever is active.

use super::models::{created_by, find, load};
use crate::exit::{Done, Fail, Outcome};
use crate::output;
use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use fleetscore_schemas::{SeriesId, SeriesName};
use fleetscore_scorer::blobs::Blobs;
use fleetscore_scorer::models;
use fleetscore_store::Store;
use futures::TryStreamExt;
use regex::Regex;
use serde_json::json;
use std::collections::HashMap;

/// Series that a message names.
const NAMED: usize = 5;

/// Which series.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["series", "matching"])))]
pub(super) struct Which {
    /// Series as device/sensor.
    #[arg(value_name = "SERIES")]
    series: Vec<String>,
    /// All whose device/sensor matches this regular expression.
    #[arg(long = "series", value_name = "REGEX", value_parser = pattern)]
    matching: Option<Regex>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Pin {
    #[command(flatten)]
    which: Which,
    /// The set's version.
    #[arg(long, value_name = "VERSION")]
    set: i64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Unpin {
    #[command(flatten)]
    which: Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A regular expression of a flag.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|e| e.to_string())
}

pub(super) async fn pin(args: &Pin, store: &dyn Store, blobs: &Blobs) -> Outcome {
    let row = find(Some(args.set), store).await?;
    for unfit in models::check_activation(store, &row.features).await? {
        eprintln!("warning: {unfit}: there these series become model_error");
    }
    let series = args.which.find(store).await?;
    let set = load(&row, store, blobs).await?;
    let without: Vec<String> =
        series.iter().filter(|(id, _)| set.get(*id).is_none()).map(|(_, name)| name.to_string()).collect();
    if !without.is_empty() {
        return Err(Fail::user(format!(
            "model set {} has no model for {}: nothing was pinned",
            row.version,
            some(&without)
        )));
    }
    let ids: Vec<SeriesId> = series.iter().map(|(id, _)| *id).collect();
    store.pin_models(&ids, Some(row.version), &created_by()).await?;
    if args.json {
        output::print(&json!({"pinned": ids.len(), "model_set": row.version}).to_string());
    } else {
        output::print(&format!("{} series are pinned to model set {}", ids.len(), row.version));
    }
    Ok(Done::All)
}

pub(super) async fn unpin(args: &Unpin, store: &dyn Store) -> Outcome {
    let series = args.which.find(store).await?;
    let pinned: Vec<SeriesId> = store.model_pins().await?.iter().map(|p| p.series).collect();
    let ids: Vec<SeriesId> =
        series.iter().map(|(id, _)| *id).filter(|id| pinned.binary_search(id).is_ok()).collect();
    store.pin_models(&ids, None, &created_by()).await?;
    if args.json {
        output::print(&json!({"unpinned": ids.len()}).to_string());
    } else {
        output::print(&format!("{} series are scored by the active set again", ids.len()));
    }
    Ok(Done::All)
}

pub(super) async fn list(as_json: bool, store: &dyn Store) -> Outcome {
    let pins = store.model_pins().await?;
    let wanted: Vec<SeriesId> = pins.iter().map(|p| p.series).collect();
    let names = names(store, &wanted).await?;
    let unnamed = SeriesName::new("?", "?");
    let name = |id: &SeriesId| names.get(id).unwrap_or(&unnamed);
    if as_json {
        let pins = pins.iter().map(|p| {
            let name = name(&p.series);
            json!({
                "device": name.device,
                "sensor": name.sensor,
                "model_set": p.version,
                "pinned_by": p.pinned_by,
                "pinned_at": p.pinned_at.to_rfc3339(),
            })
        });
        output::print(&serde_json::Value::from_iter(pins).to_string());
        return Ok(Done::All);
    }
    let rows = || {
        pins.iter().map(|p| {
            let name = name(&p.series);
            let at = output::time(p.pinned_at);
            vec![name.device.clone(), name.sensor.clone(), p.version.to_string(), p.pinned_by.clone(), at]
        })
    };
    output::print_rows(&["device", "sensor", "model set", "pinned by", "pinned at"], rows);
    Ok(Done::All)
}

impl Which {
    /// The series with their ids, ascending.
    async fn find(&self, store: &dyn Store) -> Result<Vec<(SeriesId, SeriesName)>, Fail> {
        let mut found = Vec::new();
        for text in &self.series {
            found.push(named(text, store).await?);
        }
        if let Some(regex) = &self.matching {
            let before = found.len();
            each_series(store, |id, device, sensor| {
                if regex.is_match(&format!("{device}/{sensor}")) {
                    found.push((id, SeriesName::new(device, sensor)));
                }
            })
            .await?;
            if found.len() == before {
                return Err(Fail::user(format!("--series: no series matches `{regex}`")));
            }
        }
        found.sort_by_key(|(id, _)| *id);
        found.dedup_by_key(|(id, _)| *id);
        Ok(found)
    }
}

/// The series that a text names; device and sensor may have a `/` of their own.
async fn named(text: &str, store: &dyn Store) -> Result<(SeriesId, SeriesName), Fail> {
    let parts = text.match_indices('/').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let names: Vec<SeriesName> =
        parts.filter(|(d, s)| !d.is_empty() && !s.is_empty()).map(|(d, s)| SeriesName::new(d, s)).collect();
    if names.is_empty() {
        return Err(Fail::user(format!("`{text}` is not a series: device/sensor is wanted")));
    }
    let ids = store.lookup(&names).await?;
    let mut known = ids.into_iter().zip(names).filter_map(|(id, name)| Some((id?, name)));
    match (known.next(), known.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Fail::user(format!("there is no series `{text}`"))),
        (Some(_), Some(_)) => {
            Err(Fail::user(format!("`{text}` is more than one series: name it by --series REGEX")))
        }
    }
}

/// Goes through all series, ascending by id.
async fn each_series(store: &dyn Store, mut each: impl FnMut(SeriesId, &str, &str)) -> Result<(), Fail> {
    let mut batches = store.series_batches().await?;
    while let Some(batch) = batches.try_next().await? {
        let ids = batch.column(0).as_primitive::<UInt32Type>();
        let (devices, sensors) = (batch.column(1).as_string::<i32>(), batch.column(2).as_string::<i32>());
        for (i, id) in ids.values().iter().enumerate() {
            each(*id, devices.value(i), sensors.value(i));
        }
    }
    Ok(())
}

/// Names of these series, which ascend.
async fn names(store: &dyn Store, wanted: &[SeriesId]) -> Result<HashMap<SeriesId, SeriesName>, Fail> {
    let mut names = HashMap::with_capacity(wanted.len());
    if !wanted.is_empty() {
        each_series(store, |id, device, sensor| {
            if wanted.binary_search(&id).is_ok() {
                names.insert(id, SeriesName::new(device, sensor));
            }
        })
        .await?;
    }
    Ok(names)
}

/// The first of many names.
fn some(names: &[String]) -> String {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
