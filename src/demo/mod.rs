//! The demo: a broker, a fleet with faults, windows, models, scoring, all in this process; anybody may join in.

mod feed;
mod folder;
mod picture;
mod quality;
mod setting;
mod watch;

use crate::exit::{Done, Fail, Outcome};
use crate::output;
use crate::roles::{Roles, Running};
use crate::signals::Shutdown;
use feed::{Feed, Feeder};
use fleetscore_ingest::Producer;
use fleetscore_settings::Config;
use fleetscore_simulator::Fleet;
use quality::Summary;
use setting::Stage;
use std::sync::Arc;
use std::time::Instant;
use watch::Watch;

/// What a person asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) devices: u32,
    pub(crate) sensors: u32,
    pub(crate) seed: u64,
    pub(crate) speed: Option<f64>,
    pub(crate) intervals: Option<u32>,
    pub(crate) port: Option<u16>,
}

/// Runs the demo until it has scored what was asked for, or a signal comes.
///
/// # Errors
/// A folder that is somebody else's, a port that is taken, or what a service failed of.
pub(crate) async fn run(config: &Config, shutdown: &Shutdown, wish: Wish) -> Outcome {
    let started = Instant::now();
    let stage = Stage::set(config, &wish).await?;
    let mut running = Running::start(&stage.config, Roles::All, shutdown, None).await?;
    let listener = fleetscore_http::listen(stage.http.as_str(), stage.http_may_move).await?;
    let http = listener.local_addr().map_or_else(|_| stage.http.clone(), |a| a.to_string());
    running.serve(listener);
    output::print(&stage.greeting(&http));

    let feed = Arc::new(Feed::default());
    let feeder = feeder(&stage, &wish, &running)?;
    let mut feeding = {
        let feed = Arc::clone(&feed);
        tokio::spawn(async move { feeder.run(&feed).await })
    };
    let mut watch = Watch::new(&stage, &wish, &running, feed, started);
    let failed = tokio::select! {
        () = shutdown.token().cancelled() => None,
        fail = running.failed() => Some(fail),
        ended = watch.run() => ended.err(),
        fed = &mut feeding => Some(match fed {
            Ok(Err(fail)) => fail,
            Ok(Ok(())) => Fail::work("the producer ended by itself"),
            Err(e) => Fail::work(format!("the producer broke: {e}")),
        }),
    };
    let summary = watch.end();
    // The producer goes before the broker does.
    feeding.abort();
    if !feeding.is_finished() {
        let _ = feeding.await;
    }
    let stopped = running.stop().await;
    if let Some(fail) = failed {
        return Err(fail);
    }
    output::print(&ending(&stage, &summary));
    stopped?;
    Ok(if shutdown.token().is_cancelled() { shutdown.done() } else { Done::All })
}

fn feeder(
    stage: &Stage,
    wish: &Wish,
    running: &Running,
) -> Result<Feeder<impl Fn() -> u64 + Send + use<>>, Fail> {
    let config = &stage.config;
    let producer = Producer::open(&stage.bootstrap, &config.kafka_properties, &stage.topic)?;
    let aggregator = running.handles.aggregator.clone();
    let consumed = move || {
        aggregator.as_ref().map_or(0, |a| {
            let s = a.snapshot();
            s.readings + s.filtered + s.dead_letters.values().sum::<u64>()
        })
    };
    Ok(Feeder {
        fleet: Fleet::new(stage.fleet(wish)),
        producer,
        fast_until: stage.fast_until,
        speed: stage.speed,
        consumed,
        fields: crate::send::pack::quoted(&config.readings.fields),
    })
}

/// What came out, and where to look further.
fn ending(stage: &Stage, summary: &Summary) -> String {
    let mut text = format!(
        "\n{} intervals scored since the faults began\n  recall    {} of the injected faults were found\n  precision {} of the anomalies lie in a fault\n",
        summary.intervals, summary.recall, summary.precision
    );
    for (kind, ratio) in &summary.kinds {
        text.push_str(&format!("    {kind:<8} {ratio}\n"));
    }
    if summary.kinds.contains_key("stuck") {
        text.push_str("  (half of the stuck sensors repeat a healthy value: their mean shows nothing)\n");
    }
    text.push_str("\nLook further:\n");
    let program = program(std::env::args_os().next());
    let store = format!("--store {}", shell(&stage.config.store));
    for sql in [
        "SELECT window_start, device, sensor, value, normal_range FROM anomalies ORDER BY window_start DESC LIMIT 10",
        "SELECT window_start, readings, mean, min, max FROM windows WHERE device = 'press-01' AND sensor = 'temperature' ORDER BY window_start DESC LIMIT 10",
        "SELECT interval_start, state, scored, anomalies, no_data FROM runs ORDER BY interval_start DESC LIMIT 10",
    ] {
        text.push_str(&format!("  {program} sql {store} \"{sql}\"\n"));
    }
    text.push_str(&format!(
        "  ls {}/predictions/schedule=default\n",
        shell(&stage.blobs_dir.display().to_string())
    ));
    text.trim_end().to_owned()
}

/// The program as it was called: one that a shell would not find by its name is called by its path.
fn program(called: Option<std::ffi::OsString>) -> String {
    let called = called.and_then(|c| c.into_string().ok()).filter(|c| c.contains('/'));
    called.map_or("fleetscore".to_owned(), |c| shell(&c))
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_called_as_it_was() {
        for (called, printed) in [
            (Some("target/debug/fleetscore"), "target/debug/fleetscore"),
            (Some("/opt/my tools/fleetscore"), "'/opt/my tools/fleetscore'"),
            (Some("fleetscore"), "fleetscore"),
            (None, "fleetscore"),
        ] {
            assert_eq!(program(called.map(Into::into)), printed);
        }
    }
}
