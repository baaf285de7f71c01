//! Logs: to standard error, as text or JSON, filtered by `FLEETSCORE_LOG` or `RUST_LOG`.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Libraries that tell of every single attempt what we say once: what is waited for, and for how long it was.
const QUIET: &str = "object_store=error,deadpool=error,deadpool_postgres=error,tokio_postgres=error";

/// Starts logging; `level` is what is shown where neither variable says otherwise.
pub(crate) fn start(format: LogFormat, level: &str) {
    let filter = ["FLEETSCORE_LOG", "RUST_LOG"]
        .iter()
        .filter_map(|name| std::env::var(name).ok().filter(|v| !v.trim().is_empty()).map(|v| (name, v)))
        .map(|(name, text)| {
            EnvFilter::try_new(&text).unwrap_or_else(|e| {
                let _ = writeln!(
                    io::stderr(),
                    "warning: {name}={text} is not a filter of logs ({e}); using `{level}`"
                );
                EnvFilter::new(level)
            })
        })
        .next()
        .unwrap_or_else(|| EnvFilter::new(format!("{level},{QUIET}")));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(Screen).log_internal_errors(false);
    // A second start (tests) keeps the first.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// What draws on the terminal, if anything: it makes room before a line of the log is written.
static PICTURE: Mutex<Option<indicatif::MultiProgress>> = Mutex::new(None);

/// Tells the log of a picture on the terminal; `None` when it is gone.
pub(crate) fn set_picture(picture: Option<indicatif::MultiProgress>) {
    if let Ok(mut p) = PICTURE.lock() {
        *p = picture;
    }
}

/// Standard error. Where nobody reads it any more (`2>&1 | head`), lines are lost and work goes on.
struct Screen;

impl Write for Screen {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let picture = PICTURE.lock().ok().and_then(|p| p.clone());
        let _ = match picture {
            Some(p) => p.suspend(|| io::stderr().lock().write_all(line)),
            None => io::stderr().lock().write_all(line),
        };
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

impl MakeWriter<'_> for Screen {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        Self
    }
}
