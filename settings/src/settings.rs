//! The top-level settings: each is a key of the file, a variable of the environment and a flag of every command.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// One top-level setting.
pub(crate) struct Setting {
    /// Its key in the file.
    pub(crate) key: &'static str,
    /// Its flag.
    pub(crate) flag: &'static str,
    /// Its default as text; empty = none, or computed.
    pub(crate) default: &'static str,
    /// Whether the flag may be repeated.
    pub(crate) many: bool,
    help: &'static str,
}

const fn setting(
    key: &'static str,
    flag: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, flag, default, many: false, help }
}

/// All of them, in the order they are shown.
pub(crate) const SETTINGS: [Setting; 31] = [
    setting("kafka", "kafka", "", "Kafka's host:port list, or an Event Hubs connection string"),
    Setting { many: true, ..setting("topic", "topic", "readings", "Topic of readings; may be repeated") },
    setting("group", "group", "", "Consumer group [default: fleetscore-<store id>]"),
    setting("start", "start", "earliest", "For a topic without positions: earliest, latest or a time"),
    setting("store", "store", "", "postgres://… or sqlite:PATH [default: sqlite:<data_dir>/fleetscore.db]"),
    setting("blobs", "blobs", "", "file://…, az://…, s3://… or gs://… [default: file://<data_dir>/blobs]"),
    setting("data_dir", "data-dir", "./fleetscore-data", "Folder of the default store and blobs"),
    setting("interval", "interval", "1m", "The pane, and the default schedule's window: whole seconds"),
    setting("edges", "edges", "start", "start: [start, end); end: (start, end]"),
    setting("max_disorder", "max-disorder", "10s", "How far readings of one partition may be out of order"),
    setting("max_future_skew", "max-future-skew", "5m", "How far ahead of the clock a reading may be"),
    setting("allowed_lateness", "allowed-lateness", "7d", "Readings later than this are dead letters"),
    setting("idle_timeout", "idle-timeout", "30s", "A partition without readings for so long is quiet"),
    setting("owner_ttl", "owner-ttl", "30s", "An owner not seen for so long is silent"),
    setting("max_wait", "max-wait", "10m", "How long a silent owner holds intervals back"),
    setting(
        "checkpoint_interval",
        "checkpoint-interval",
        "10s",
        "The longest time between checkpoints; of a backlog 10s, if that is longer",
    ),
    setting("checkpoint_bytes", "checkpoint-bytes", "256MiB", "Memory that forces a checkpoint"),
    setting("in_flight_bytes", "in-flight-bytes", "64MiB", "Bytes read from Kafka and not aggregated yet"),
    setting("max_message_bytes", "max-message-bytes", "64MiB", "Larger messages are dead letters"),
    setting("max_series", "max-series", "2000000", "Readings of further series are dead letters"),
    setting(
        "dead_letters_per_minute",
        "dead-letters-per-minute",
        "10000",
        "Dead letters that a process stores one by one; what is beyond is counted",
    ),
    setting("dead_letter_bytes_per_minute", "dead-letter-bytes-per-minute", "16MiB", "The same in bytes"),
    setting(
        "dead_letter_retention",
        "dead-letter-retention",
        "off",
        "How long dead letters are kept, replayed or not, or off",
    ),
    setting(
        "on_offset_gap",
        "on-offset-gap",
        "stop",
        "Offsets that the broker no longer has: stop or continue",
    ),
    setting("retention", "retention", "off", "How long panes are kept behind the newest interval, or off"),
    setting("run_retention", "run-retention", "90d", "How long ended runs stay in the history, or off"),
    setting(
        "fleet_silence",
        "fleet-silence",
        "10m",
        "A fleet of which nothing comes for so long is an event, or off",
    ),
    setting("lease", "lease", "60s", "A worker not heard of for so long loses its shards to others"),
    setting("parallel_tasks", "parallel-tasks", "2", "Shards that a process scores at once"),
    setting("http", "http", "", "Address of /healthz and /readyz, for example 127.0.0.1:8080"),
    setting("shutdown_timeout", "shutdown-timeout", "25s", "How long a shutdown may take"),
];

/// Values of the flags of [`SETTINGS`] that were given.
#[derive(Debug, Clone, Default)]
pub struct SettingFlags(pub Vec<(String, Vec<String>)>);

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = SETTINGS
            .iter()
            .filter_map(|s| {
                let values = matches.get_many::<String>(s.key)?.cloned().collect();
                Some((s.key.to_owned(), values))
            })
            .collect();
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(mut cmd: Command) -> Command {
        for s in &SETTINGS {
            let action = if s.many { ArgAction::Append } else { ArgAction::Set };
            let value = if s.many { "NAME" } else { "VALUE" };
            let help = if s.default.is_empty() {
                s.help.to_owned()
            } else {
                format!("{} [default: {}]", s.help, s.default)
            };
            cmd = cmd.arg(
                Arg::new(s.key)
                    .long(s.flag)
                    .global(true)
                    .action(action)
                    .value_name(value)
                    .help(help)
                    .hide_short_help(true)
                    .help_heading("Settings (also by file and environment)"),
            );
        }
        cmd
    }

    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_its_key_with_dashes() {
        for s in &SETTINGS {
            assert_eq!(s.flag, s.key.replace('_', "-"));
        }
    }
}
