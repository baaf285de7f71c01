//! What the commands of the benchmarks that run a PostgreSQL of their own have in common.

use crate::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of all of them.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Folder of PostgreSQL's programs.
    #[arg(
        long,
        global = true,
        env = "FLEETSCORE_TEST_PG_BIN",
        default_value = "/usr/lib/postgresql/15/bin",
        value_name = "DIR"
    )]
    pub pg_bin: PathBuf,
    /// Also write the results as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs a benchmark of this name to its end.
pub fn main(name: &str, run: impl Future<Output = Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new();
    ended(name, runtime.map_err(Into::into).and_then(|r| r.block_on(run)))
}

/// The exit status of a benchmark of this name, which has said why where it failed.
pub fn ended(name: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    }
}
