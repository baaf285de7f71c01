//! What must hold for whatever settings a process is given: [`check`].
//!
//! An input is a letter for the place of a secret ([`PLACES`]) and then parts with `\0` between them: the secret, the file,
//! and any number of variables of the environment (`FLEETSCORE_KEY=value`) and flags (`--key=value`).

use clap::{Args, Command, FromArgMatches};
use fleetscore_settings::{Config, SettingFlags, Sources, mask, units};
use std::path::PathBuf;
use std::sync::LazyLock;

/// Both ends of the secret: neither may be seen, wherever the rest of it breaks what surrounds it.
const ENDS: [&str; 2] = ["q7Zx", "k9Wv"];

/// Where the secret stands: variable, what is before it, what is behind it, and characters that would end it there.
const PLACES: [(&str, &str, &str, &str); 8] = [
    ("STORE", "postgres://me:", "@host:5432/db?sslmode=require", "?@"),
    ("STORE", "postgres://host/db?user=me&password=", "&sslmode=require", "&@"),
    ("KAFKA", "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=r;SharedAccessKey=", ";EntityPath=e", ";&"),
    ("KAFKA", "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=r;SharedAccessKey=", "", ";&"),
    ("BLOBS", "https://a.blob.core.windows.net/c?sv=1&sig=", "&se=2", "&@"),
    ("KAFKA_PROPERTIES__SASL_PASSWORD", "", "", ""),
    ("KAFKA_PROPERTIES__SSL_KEY_PEM", "-----BEGIN PRIVATE KEY-----\n", "\n-----END PRIVATE KEY-----", ""),
    ("KAFKA_PROPERTIES__SASL_JAAS_CONFIG", "x.PlainLoginModule required password=\"", "\";", ""),
];

/// Bytes allocated for each of the input: a tree of values, and each of them shown.
const ALLOCATED: usize = 1024;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("fleetscore-fuzz-{}.toml", std::process::id())));

/// All that is to hold for one input.
pub fn check(data: &[u8]) {
    let [place, rest @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if ENDS.iter().any(|end| text.contains(end)) {
        return; // it would be seen for another reason
    }
    let mut parts = text.split('\0');
    let secret = parts.next().unwrap_or_default();
    let file = parts.next().unwrap_or_default();
    let mut sources = sources(file, parts);
    let place = usize::from(place.wrapping_sub(b'0'));
    if let Some(&(name, before, behind, ends)) = PLACES.get(place) {
        let secret: String =
            secret.chars().filter(|c| !ends.contains(*c) && (ends.is_empty() || !c.is_whitespace() && !"\\'".contains(*c))).collect();
        let value = format!("{before}{}{secret}{}{behind}", ENDS[0], ENDS[1]);
        sources.environment.push((format!("FLEETSCORE_{name}"), value));
    }
    units_read_back(secret);
    match crate::bounded(data.len(), ALLOCATED, crate::ALWAYS, || Config::load(&sources)) {
        Ok(config) => printed_reads_back(&config),
        Err(mistakes) => each_names_its_setting(&mistakes.to_string()),
    }
}

fn sources<'t>(file: &str, parts: impl Iterator<Item = &'t str>) -> Sources {
    let mut sources = Sources::default();
    if !file.is_empty() {
        std::fs::write(&*FILE, file).expect("a temporary file can be written");
        sources.file = Some(FILE.clone());
    }
    let (flags, environment): (Vec<&str>, Vec<&str>) = parts.take(64).partition(|part| part.starts_with("--"));
    let variable = |part: &str| {
        let (name, value) = part.split_once('=')?;
        // As `Sources::of_process` does.
        name.starts_with("FLEETSCORE_").then(|| (name.to_owned(), value.to_owned()))
    };
    sources.environment = environment.into_iter().filter_map(variable).collect();
    if !flags.is_empty() {
        let command = SettingFlags::augment_args(Command::new("fleetscore").no_binary_name(true));
        // What clap refuses, it names itself.
        let matches = command.try_get_matches_from(flags);
        sources.flags = matches.and_then(|m| SettingFlags::from_arg_matches(&m)).unwrap_or_default();
    }
    sources
}

/// What `config` prints is TOML without the secret; and where nothing is masked, it says the same when it is read as the
/// file.
fn printed_reads_back(config: &Config) {
    let shown = config.to_toml();
    no_secret(&shown);
    let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap_or_else(|e| panic!("{e} in\n{text}"));
    let told = table(&shown);
    if shown.contains(mask::MASK) {
        return; // it says less than was given
    }
    std::fs::write(&*FILE, &shown).expect("a temporary file can be written");
    let again = Config::load(&Sources { file: Some(FILE.clone()), ..Sources::default() });
    let again = again.unwrap_or_else(|e| panic!("{e}: printed as\n{shown}")).to_toml();
    assert_eq!(told, table(&again), "printed as\n{shown}\nand again as\n{again}");
}

/// Every mistake is a line of its own that begins with a setting and ends with where it came from.
fn each_names_its_setting(mistakes: &str) {
    no_secret(mistakes);
    let mut lines = mistakes.split('\n');
    let heading = lines.next().unwrap_or_default();
    if let Some(what) = heading.strip_prefix("config: ") {
        return assert!(!what.is_empty() && lines.next().is_none(), "{mistakes}");
    }
    assert!(["a setting is wrong:", "settings are wrong:"].contains(&heading), "{mistakes}");
    let mut count = 0;
    for line in lines {
        count += 1;
        let line = line.strip_prefix("  ").unwrap_or_else(|| panic!("a line of its own: {mistakes}"));
        assert!(line.contains(": ") && line.ends_with(')') && !line.starts_with(": "), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(count > 0, "{mistakes}");
}

fn no_secret(shown: &str) {
    assert!(ENDS.iter().all(|end| !shown.contains(end)), "a secret is shown:\n{shown}");
}

/// What a unit reads, it shows, and reads back.
fn units_read_back(text: &str) {
    if let Ok(us) = units::duration_us(text) {
        assert_eq!(units::duration_us(&units::show_duration(us)), Ok(us));
    }
    if let Ok(n) = units::bytes(text) {
        assert_eq!(units::bytes(&units::show_bytes(n)), Ok(n));
    }
    if let Ok(t) = units::time(text) {
        assert_eq!(units::time_utc(text), Ok(t), "{text}");
    }
    let _ = units::duration_or_off(text);
}
