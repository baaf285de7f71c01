//! The layers of the configuration under one another, each value with where it came from.

use super::settings::SETTINGS;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use std::path::Path;

/// Variables with our prefix that are no settings: they steer the program, the tests or the container it runs in
/// (Kubernetes sets `FLEETSCORE_PORT…` and `FLEETSCORE_SERVICE_…` beside a service of our name).
const NO_SETTINGS: [&str; 5] = ["LOG", "LOG_FORMAT", "CONFIG", "REFERENCE", "KERNEL"];
const NO_SETTING_PREFIXES: [&str; 5] = ["TEST_", "BENCH_", "PORT", "SERVICE_", "BIN"];

/// Environment variables `FLEETSCORE_…`, nested with `__`. Values stay text: figment's own provider would read a
/// password `007` as the number 7.
pub(super) struct Environment<'a>(pub(super) &'a [(String, String)]);

impl Provider for Environment<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment").interpolater(|_: &Profile, keys: &[&str]| {
            format!("environment FLEETSCORE_{}", keys.join("__").to_uppercase())
        })
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let mut dict = Dict::new();
        for (name, value) in self.0 {
            let Some(name) = name.strip_prefix("FLEETSCORE_") else { continue };
            let skipped =
                NO_SETTINGS.contains(&name) || NO_SETTING_PREFIXES.iter().any(|p| name.starts_with(p));
            if !skipped && !name.is_empty() {
                let path: Vec<String> = name.split("__").map(str::to_lowercase).collect();
                insert(&mut dict, &path, value);
            }
        }
        Ok(Profile::Default.collect(dict))
    }
}

/// A variable below one that is a value itself is dropped into its place: the reader then names it as a mistake.
fn insert(dict: &mut Dict, path: &[String], value: &str) {
    let Some((key, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        dict.insert(key.clone(), Value::from(value));
        return;
    }
    let entry = dict.entry(key.clone()).or_insert_with(|| Value::from(Dict::new()));
    if let Value::Dict(_, inner) = entry {
        insert(inner, rest, value);
    } else {
        let mut inner = Dict::new();
        insert(&mut inner, rest, value);
        *entry = Value::from(inner);
    }
}

/// Settings given as flags: key and values in order.
pub(super) struct Flags<'a>(pub(super) &'a [(String, Vec<String>)]);

impl Provider for Flags<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("flag").interpolater(|_: &Profile, keys: &[&str]| {
            format!("flag --{}", keys.first().copied().unwrap_or_default().replace('_', "-"))
        })
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let mut dict = Dict::new();
        for (key, values) in self.0 {
            let many = SETTINGS.iter().any(|s| s.key == key && s.many);
            let value = match values.as_slice() {
                [one] if !many => Value::from(one.as_str()),
                several => Value::from(several.to_vec()),
            };
            dict.insert(key.clone(), value);
        }
        Ok(Profile::Default.collect(dict))
    }
}

/// Where a value came from, in words: `flag --store`, `environment FLEETSCORE_STORE`, `fleetscore.toml`, `default`.
pub(super) fn origin(figment: &Figment, value: &Value, path: &[&str]) -> String {
    match figment.get_metadata(value.tag()) {
        Some(m) if m.name == "flag" || m.name == "environment" => m.interpolate(&Profile::Default, path),
        Some(m) => m.source.as_ref().map_or_else(|| m.name.to_string(), |s| s.to_string()),
        None => "default".to_owned(),
    }
}

/// Puts the layers under one another: file, then environment, then flags.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn figment(
    file: Option<&Path>,
    environment: &[(String, String)],
    flags: &[(String, Vec<String>)],
) -> Result<Figment, String> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        // Read here, so that a missing file and bad TOML are told apart and name the flag.
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("config: `{}` cannot be read: {e}", path.display()))?;
        toml::from_str::<toml::Table>(&text).map_err(|e| not_toml(path, &text, &e))?;
        figment = figment.merge(Toml::file_exact(path));
    }
    Ok(figment.merge(Environment(environment)).merge(Flags(flags)))
}

/// What is wrong with a file, and where: not with the line itself, as toml's own words have it, for it may hold a
/// password whose quotation mark is missing.
fn not_toml(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(String::new(), |span| {
        let before = &text.as_bytes()[..span.start.min(text.len())];
        format!(" in line {}", 1 + before.iter().filter(|c| **c == b'\n').count())
    });
    let what: Vec<&str> = error.message().lines().map(str::trim).collect();
    format!("config: `{}` is not TOML{line}: {}", path.display(), what.join(", "))
}
