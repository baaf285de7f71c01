//! What the commands of the benchmarks have in common.

use crate::Result;
use crate::live::{Load, Site, rate};
use crate::report::Report;
use fleetscore_harness::Servers;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of those that run a PostgreSQL of their own.
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

/// Flags of those that run a pipeline of their own, see [`crate::live`].
#[derive(Debug, clap::Args)]
pub struct Live {
    /// The binary.
    #[arg(long, env = "FLEETSCORE_BIN", value_name = "FILE", default_value = "fleetscore")]
    pub fleetscore: PathBuf,
    /// Makes the readings.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The greatest rate in readings a second; measured first where it is not given.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds for which the rate is measured.
    #[arg(long, default_value_t = 30)]
    pub rate_seconds: u64,
    /// Devices, of five sensors each.
    #[arg(long, default_value_t = 400)]
    pub devices: u32,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Live {
    /// The fleet.
    pub const fn load(&self) -> Load {
        Load { seed: self.seed, partitions: 4, devices: self.devices, sensors: 5 }
    }

    /// The greatest rate in readings a second, given or measured, which the report says.
    ///
    /// # Errors
    /// It cannot be measured.
    pub fn greatest_rate(&self, site: &Site, servers: &Servers, out: &mut Report) -> Result<f64> {
        let (most, how) = match self.rate {
            Some(rate) => (rate, "given".to_owned()),
            None => {
                let rate = rate::measure(site, servers, &self.load(), 100_000.0, self.rate_seconds)?;
                eprintln!("{rate:?}");
                let how = format!(
                    "committed, measured over {:.1} s with a backlog, producer and servers on the same cores",
                    rate.seconds
                );
                (rate.readings_a_second, how)
            }
        };
        out.setting("greatest rate", format!("{most:.0} readings/s, {how}"));
        Ok(most)
    }
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
