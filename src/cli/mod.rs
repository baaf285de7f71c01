//! The command line: one file for each command.

mod config;
mod dead_letters;
mod demo;
mod events;
mod migrate;
mod models;
mod models_diff;
mod models_import;
mod models_pins;
mod models_sets;
mod models_show;
mod predict;
mod roles;
mod roster;
mod run;
mod runs;
mod schedules;
mod send;
mod sql;
mod train;
mod views;

use crate::exit::{self, Done, Fail, Outcome};
use crate::logging::{self, LogFormat};
use crate::roles::Roles;
use crate::signals::Shutdown;
use clap::{Parser, Subcommand};
use fleetscore_settings::{Config, SettingFlags, Sources};
use std::path::PathBuf;
use std::process::ExitCode;

/// Every device's own anomaly model, scored on every interval: Kafka in, SQL and blobs out.
#[derive(Debug, Parser)]
#[command(name = "fleetscore", version, max_term_width = 120)]
struct Cli {
    /// File of settings.
    #[arg(long, global = true, value_name = "FILE", env = "FLEETSCORE_CONFIG")]
    config: Option<PathBuf>,
    /// Form of the log on standard error.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "FLEETSCORE_LOG_FORMAT",
        hide_short_help = true
    )]
    log_format: LogFormat,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process: broker, simulated fleet, training, windows, scoring. Nothing to install.
    Demo(demo::Args),
    /// All roles in one process: Kafka to windows, windows to predictions.
    Up,
    /// One role: Kafka to windows.
    Aggregate,
    /// One role: schedules, scoring and publication.
    Score,
    /// Score the intervals that start in [from, to) now, and exit: backfill and re-score.
    Run(run::Args),
    /// List, show, cancel and retry runs (`run` scores again).
    Runs(runs::Args),
    /// List and show schedules, pause and resume them; what they will do, and what they did not do and why.
    Schedules(schedules::Args),
    /// Series that have a model and are silent, and series that send and have none.
    Roster(roster::Args),
    /// Silences, stalled runs, and what came back: newest first.
    Events(events::Args),
    /// Import, train, list, activate and check model sets.
    #[command(subcommand)]
    Models(models::Command),
    /// Score a CSV file with models straight from their files: no Kafka, no store.
    Predict(predict::Args),
    /// A producer: readings from a CSV file or a simulated fleet.
    Send(send::Args),
    /// One reading statement over the store, in its own dialect.
    Sql(sql::Args),
    /// List, show and replay records that were not counted.
    DeadLetters(dead_letters::Args),
    /// Create or update the store's tables.
    Migrate,
    /// Print the effective settings with their origin.
    Config,
}

impl Command {
    /// What the log shows unless a variable says otherwise: services tell what they do, commands only what is wrong.
    fn level(&self) -> &'static str {
        match self {
            Self::Up | Self::Aggregate | Self::Score => "info",
            _ => "warn",
        }
    }

    /// Whether it goes on until it is told to end.
    fn lasting(&self) -> bool {
        match self {
            Self::Demo(_) | Self::Up | Self::Aggregate | Self::Score => true,
            Self::Send(args) => args.lasting(),
            _ => false,
        }
    }
}

/// What every command is given.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) shutdown: Shutdown,
}

/// Parses, does, reports.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    if let Err(e) = fleetscore_kernel::Path::configured() {
        return exit::report(&Err(Fail::user(e.to_string())));
    }
    // One file in, one file out: neither settings nor servers, so none of what they need is set up.
    if let Command::Predict(args) = &cli.command {
        return exit::report(&predict::run(args));
    }
    logging::start(cli.log_format, cli.command.level());
    exit::report(&run(cli))
}

fn run(cli: Cli) -> Outcome {
    let config = Config::load(&Sources::of_process(cli.config, cli.settings))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Fail::work(format!("no threads to run on: {e}")))?;
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::listen()?;
        let context = Context { config, shutdown: shutdown.clone() };
        let lasting = cli.command.lasting();
        match Box::pin(dispatch(cli.command, context)).await {
            Err(Fail::Stopped) => stopped(lasting, shutdown.done()),
            outcome => outcome,
        }
    });
    // Threads that wait for a server must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// What a signal makes of a command: told to end by SIGTERM, a service has done all it was to do, other work is not done.
fn stopped(lasting: bool, signal: Done) -> Outcome {
    match signal {
        Done::All if !lasting => Err(Fail::work("stopped before it was done")),
        done => Ok(done),
    }
}

async fn dispatch(command: Command, context: Context) -> Outcome {
    match command {
        Command::Demo(args) => demo::run(args, &context).await,
        Command::Up => roles::run(Roles::All, &context).await,
        Command::Aggregate => roles::run(Roles::Aggregate, &context).await,
        Command::Score => roles::run(Roles::Score, &context).await,
        Command::Run(args) => run::run(args, &context).await,
        Command::Models(command) => models::run(command, &context).await,
        Command::Predict(args) => predict::run(&args),
        Command::Send(args) => send::run(args, &context).await,
        Command::Runs(args) => runs::run(args, &context).await,
        Command::Schedules(args) => schedules::run(&args, &context).await,
        Command::Roster(args) => roster::run(&args, &context).await,
        Command::Events(args) => events::run(&args, &context).await,
        Command::Sql(args) => sql::run(&args, &context).await,
        Command::DeadLetters(args) => dead_letters::run(args, &context).await,
        Command::Migrate => migrate::run(&context).await,
        Command::Config => Ok(config::run(&context)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sigterm_ends_services_well_and_leaves_other_work_undone() {
        for (args, status) in [
            ("up", 0),
            ("aggregate", 0),
            ("score", 0),
            ("demo", 0),
            ("send --simulate", 0),
            ("send --simulate --duration 1m", 1),
            ("send --csv x.csv", 1),
            ("run --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z", 1),
            ("migrate", 1),
        ] {
            let cli = Cli::try_parse_from(["fleetscore"].into_iter().chain(args.split(' '))).unwrap();
            let lasting = cli.command.lasting();
            assert_eq!(exit::status(&stopped(lasting, Done::All)), status, "{args}");
            assert_eq!(exit::status(&stopped(lasting, Done::Interrupted)), 130, "{args}");
        }
    }

    #[test]
    fn every_command_takes_every_setting_before_or_after_its_name() {
        for args in
            [["fleetscore", "--interval", "5s", "migrate"], ["fleetscore", "migrate", "--interval", "5s"]]
        {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.settings.0, [("interval".to_owned(), vec!["5s".to_owned()])]);
        }
        let cli =
            Cli::try_parse_from(["fleetscore", "sql", "SELECT 1", "--topic", "a", "--topic", "b"]).unwrap();
        assert_eq!(cli.settings.0, [("topic".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
    }
}
