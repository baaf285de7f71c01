//! `run`: a range of intervals, scored now.

mod progress;
mod report;

use super::Context;
use super::models_pins::pattern;
use crate::exit::{Done, Fail, Outcome};
use crate::{connect, wire};
use fleetscore_schemas::status::RunScope;
use fleetscore_schemas::time::Timestamp;
use fleetscore_scorer::ScorerError;
use fleetscore_scorer::range::{RangeOptions, RangeProgress, RangeReport, SetChoice, run_range};
use fleetscore_settings::units;
pub(super) use report::Asked;

use progress::Bar;
use regex::Regex;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Start of the first interval.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    from: Timestamp,
    /// Intervals start before this.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    to: Timestamp,
    /// The schedule whose windows count.
    #[arg(long, default_value = "default")]
    schedule: String,
    /// Only series whose device/sensor matches this regular expression; the others' rows stay.
    #[arg(long, value_name = "REGEX", value_parser = pattern)]
    series: Option<Regex>,
    /// Only series whose window has changed since they were scored.
    #[arg(long, conflicts_with = "failed")]
    stale: bool,
    /// Only series whose model failed.
    #[arg(long)]
    failed: bool,
    /// Score with the active model set (the schedule's own where it has one), with this version, or (as-of-interval) for
    /// each interval with the set that was active when it ended.
    #[arg(long, value_name = "SET", value_parser = set_choice, default_value = "active")]
    model_set: SetChoice,
    /// Change nothing; print what would change.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn set_choice(text: &str) -> Result<SetChoice, String> {
    match text {
        "active" => Ok(SetChoice::Active),
        "as-of-interval" | "as_of_interval" | "as-of" => Ok(SetChoice::AsOfInterval),
        other => match other.parse::<i64>() {
            Ok(version) if version > 0 => Ok(SetChoice::Version(version)),
            _ => Err("it is none of `active`, a version, `as-of-interval`".to_owned()),
        },
    }
}

impl Args {
    fn scope(&self) -> RunScope {
        match (self.stale, self.failed) {
            (true, _) => RunScope::Stale,
            (_, true) => RunScope::Failed,
            _ => RunScope::All,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Outcome {
    let (config, shutdown) = (&context.config, &context.shutdown);
    let store = connect::store(config, shutdown).await?;
    let blobs = connect::blobs(config, &*store, shutdown).await?;
    create_schedule(&args.schedule, context, &*store).await?;
    let report = to_its_end(context, |progress| {
        let options = RangeOptions {
            schedule: args.schedule.clone(),
            from: args.from,
            to: args.to,
            model_set: args.model_set,
            series: args.series.as_ref().map(|s| s.as_str().to_owned()),
            scope: args.scope(),
            dry_run: args.dry_run,
            publish: true,
            progress: Some(progress),
            scorer: wire::scorer(config, wire::process_name(), None),
        };
        run_range(Arc::clone(&store), blobs.clone(), options, shutdown.token().clone())
    })
    .await?;
    let asked =
        Asked { dry_run: args.dry_run, scope: args.scope(), series: args.series.as_ref().map(Regex::as_str) };
    ended(&report, &asked, args.json)
}

/// Works until it is done, with a bar on a terminal; a signal lets it clean up.
///
/// # Errors
/// What the work says; [`Fail::Stopped`] where a signal came and cleaning up took too long.
pub(super) async fn to_its_end<W>(
    context: &Context,
    mut work: impl FnMut(watch::Sender<RangeProgress>) -> W,
) -> Result<RangeReport, Fail>
where
    W: Future<Output = Result<RangeReport, ScorerError>>,
{
    let (tell, told) = watch::channel(RangeProgress::new());
    let _bar = Bar::start(told);
    tokio::select! {
        report = connect::to_its_end("the store", &context.shutdown, || work(tell.clone())) => report,
        () = overdue(context) => Err(Fail::Stopped),
    }
}

/// Prints a report, and what it means for the status.
pub(super) fn ended(report: &RangeReport, asked: &Asked<'_>, as_json: bool) -> Outcome {
    report::print(report, asked, as_json);
    if report.stopped {
        return Err(Fail::Stopped);
    }
    if report.failed() {
        return Err(Fail::work("some runs failed: see `runs show`, and `runs retry` for their shards"));
    }
    Ok(if report.partly() { Done::Partly } else { Done::All })
}

/// The end of the time that cleaning up may take after a signal.
async fn overdue(context: &Context) {
    context.shutdown.token().cancelled().await;
    tokio::time::sleep(context.config.shutdown_timeout).await;
    tracing::warn!("shutdown passed shutdown_timeout; the next `run` over the range ends what is left open");
}

/// A configured schedule that no service has made yet is made here: the command may be the only scorer there is.
async fn create_schedule(
    name: &str,
    context: &Context,
    store: &dyn fleetscore_store::Store,
) -> Result<(), Fail> {
    let known = store.schedules().await?.iter().any(|s| s.spec.name == name);
    let configured = context.config.schedules.iter().find(|s| s.name == name);
    match configured.filter(|_| !known) {
        Some(spec) if store.pane_settings().await?.is_some() => Ok(store.put_schedule(spec).await?),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(more: &str) -> Result<Args, String> {
        let line = format!("run --from 2026-01-01 --to 2026-01-02 {more}");
        Line::try_parse_from(line.split_whitespace()).map(|l| l.args).map_err(|e| e.to_string())
    }

    #[test]
    fn the_model_set_is_the_active_one_a_version_or_that_of_the_time() {
        for (flags, choice) in [
            ("", SetChoice::Active),
            ("--model-set active", SetChoice::Active),
            ("--model-set 7", SetChoice::Version(7)),
            ("--model-set as-of-interval", SetChoice::AsOfInterval),
            ("--model-set as-of", SetChoice::AsOfInterval),
        ] {
            assert_eq!(parse(flags).unwrap().model_set, choice, "{flags}");
        }
        for flags in ["--model-set newest", "--model-set 0", "--model-set -3"] {
            assert!(parse(flags).is_err(), "{flags}");
        }
    }

    #[test]
    fn which_series_are_scored() {
        assert_eq!(parse("").unwrap().scope(), RunScope::All);
        assert_eq!(parse("--stale").unwrap().scope(), RunScope::Stale);
        assert_eq!(parse("--failed --series ^a").unwrap().scope(), RunScope::Failed);
        assert!(parse("--stale --failed").unwrap_err().contains("cannot be used with"));
        assert!(parse("--series (").is_err(), "no regular expression");
    }
}
