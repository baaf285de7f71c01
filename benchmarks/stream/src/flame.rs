//! A flame graph of processes: sampled by `perf`, drawn by inferno, a root for each kind of thread.

use fleetscore_benchmarks::Result;
use fleetscore_benchmarks::child::{Service, succeed};
use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{Options, from_reader};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::Command;

/// Samples for each second of a processor.
const PER_SECOND: &str = "199";

/// Sampling that goes on.
pub(crate) struct Sampling {
    perf: Service,
    folder: tempfile::TempDir,
}

impl Sampling {
    /// Samples these processes, and those that they start from now on.
    ///
    /// # Errors
    /// `perf` cannot be started.
    pub(crate) fn start(pids: impl IntoIterator<Item = u32>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-perf-").tempdir()?;
        let pids: Vec<String> = pids.into_iter().map(|pid| pid.to_string()).collect();
        let mut command = Command::new("perf");
        // By the tables that unwind a panic: release builds keep them, and no frame pointers.
        command.args([
            "record",
            "-e",
            "cpu-clock",
            "-F",
            PER_SECOND,
            "--call-graph",
            "dwarf,8192",
            "-p",
            &pids.join(","),
        ]);
        command.arg("-o").arg(folder.path().join("samples"));
        let perf = Service::start(command, &folder.path().join("perf.log"), libc::SIGINT)
            .map_err(|e| format!("a flame graph needs `perf` (Debian: linux-perf): {e}"))?;
        Ok(Self { perf, folder })
    }

    /// Ends the sampling and draws what was sampled.
    ///
    /// # Errors
    /// `perf` has nothing to show, or the file cannot be written.
    pub(crate) fn draw(self, file: &Path) -> Result<()> {
        let Self { mut perf, folder } = self;
        perf.stop();
        let mut script = Command::new("perf");
        script.args(["script", "--no-inline", "-i"]).arg(folder.path().join("samples"));
        let said = succeed(&mut script)?.stdout;
        let mut folded = Vec::new();
        Folder::default().collapse(said.as_bytes(), &mut folded)?;
        // One root for threads that only a number tells apart.
        let folded: String =
            String::from_utf8_lossy(&folded).lines().map(|line| format!("{}\n", by_kind(line))).collect();
        let mut options = Options::default();
        options.title = "Kafka to windows in PostgreSQL: processor time by thread".into();
        options.count_name = "ns".into();
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        from_reader(&mut options, BufReader::new(folded.as_bytes()), BufWriter::new(File::create(file)?))?;
        Ok(())
    }
}

/// A line of folded stacks whose first frame, the thread, is without the number at its end. What has a number alone began
/// after the sampling: a thread of the runtime for work that blocks.
fn by_kind(line: &str) -> String {
    match line.split_once(';') {
        Some((thread, stack)) => match thread.trim_end_matches(|c: char| c.is_ascii_digit()) {
            ":" => format!("tokio-rt-worker;{stack}"),
            kind => format!("{kind};{stack}"),
        },
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::by_kind;

    #[test]
    fn threads_of_a_kind_are_one() {
        assert_eq!(by_kind("rdk:broker12;a;b 3"), "rdk:broker;a;b 3");
        assert_eq!(by_kind("postgres;main 1"), "postgres;main 1");
        assert_eq!(by_kind(":1234;clone3;a 2"), "tokio-rt-worker;clone3;a 2");
        assert_eq!(by_kind("alone 7"), "alone 7");
    }
}
