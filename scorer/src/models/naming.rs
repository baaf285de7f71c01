//! From a file's name to its series.

use fleetscore_schemas::SeriesName;
use regex::Regex;

/// `model_1_1` is the model of device `1`, sensor `1`.
pub const DEFAULT_PATTERN: &str = "model_{device}_{sensor}";

/// Endings that are dropped before the pattern is applied.
const EXTENSIONS: [&str; 8] =
    [".pkl", ".pickle", ".joblib", ".onnx", ".json", ".jsonl", ".ndjson", ".parquet"];

/// Those of files that may hold many models, which name their series themselves.
const OF_MANY: [&str; 4] = [".json", ".jsonl", ".ndjson", ".parquet"];

/// Endings of files that people keep beside models.
const OF_OTHERS: [&str; 36] = [
    ".md", ".rst", ".txt", ".csv", ".tsv", ".log", ".html", ".htm", ".xml", ".pdf", ".png", ".jpg", ".jpeg",
    ".svg", ".gif", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".lock", ".py", ".pyc", ".ipynb",
    ".r", ".sql", ".sh", ".bat", ".xls", ".xlsx", ".doc", ".docx", ".crc", ".md5", ".sha256",
];

/// Names of such files: what people write beside data, and what Spark and blob storage of our own leave there.
const OTHERS: [&str; 11] = [
    "readme",
    "license",
    "licence",
    "notice",
    "changelog",
    "makefile",
    "dockerfile",
    "_success",
    "_metadata",
    "_common_metadata",
    "_fleetscore.json",
];

/// How file names are made of device and sensor.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// A pattern with `{device}` and `{sensor}`, once each, and literal text around them. Where a name can be split in
    /// several ways, the first of the two takes as much as it can: `model_a_b_c` is device `a_b`, sensor `c`.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let once = |what: &str| pattern.matches(what).count() == 1;
        if !once("{device}") || !once("{sensor}") {
            return Err(format!("the pattern `{pattern}` must contain {{device}} and {{sensor}} once each"));
        }
        let escaped = regex::escape(pattern)
            .replace(r"\{device\}", "(?<device>.+)")
            .replace(r"\{sensor\}", "(?<sensor>.+)");
        let regex =
            Regex::new(&format!("(?s)^{escaped}$")).map_err(|e| format!("the pattern `{pattern}`: {e}"))?;
        Ok(Self { text: pattern.to_owned(), regex })
    }

    /// The series a file is for, with the model's name; `None` where the name is not of the pattern.
    pub fn series(&self, file_name: &str) -> Option<(SeriesName, String)> {
        let (series, stem) = self.split(file_name);
        Some((series?, stem.to_owned()))
    }

    /// The series a file is for, if its name is of the pattern, and the name without its ending.
    pub(crate) fn split<'a>(&self, file_name: &'a str) -> (Option<SeriesName>, &'a str) {
        let stem = EXTENSIONS.iter().find_map(|e| file_name.strip_suffix(e)).unwrap_or(file_name);
        let series = self.regex.captures(stem).and_then(|captures| {
            let part = |name: &str| captures.name(name).map(|m| m.as_str()).filter(|s| is_name(s));
            Some(SeriesName::new(part("device")?, part("sensor")?))
        });
        (series, stem)
    }

    /// The name of this series' model.
    pub(crate) fn name(&self, series: &SeriesName) -> String {
        // In one pass: a device may be called `{sensor}`.
        let mut name = String::with_capacity(self.text.len() + series.device.len() + series.sensor.len());
        let mut rest = self.text.as_str();
        while let Some(at) = rest.find('{') {
            let (before, part) = rest.split_at(at);
            name.push_str(before);
            let parts = [("{device}", &series.device), ("{sensor}", &series.sensor)];
            match parts.iter().find_map(|(key, value)| Some((part.strip_prefix(key)?, value))) {
                Some((behind, value)) => {
                    name.push_str(value);
                    rest = behind;
                }
                None => {
                    name.push('{');
                    rest = &part[1..];
                }
            }
        }
        name + rest
    }
}

/// Whether a file of this name may hold many models.
pub(crate) fn holds_many(file_name: &str) -> bool {
    let name = file_name.to_ascii_lowercase();
    OF_MANY.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file of this name is plainly of no format that is read.
pub(crate) fn is_other(file_name: &str) -> bool {
    let name = file_name.to_ascii_lowercase();
    OTHERS.contains(&name.as_str()) || OF_OTHERS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file of this name is of a format that is read.
pub(crate) fn is_known(file_name: &str) -> bool {
    let name = file_name.to_ascii_lowercase();
    EXTENSIONS.iter().any(|ending| name.ends_with(ending))
}

/// The rule for names of devices and sensors.
pub(super) fn is_name(name: &str) -> bool {
    (1..=256).contains(&name.len()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_the_last_separator() {
        let default = Pattern::new(DEFAULT_PATTERN).unwrap();
        let other = Pattern::new("{sensor}.of.{device}+").unwrap();
        let none = None;
        for (pattern, file, wanted) in [
            (&default, "model_1_2", Some(("1", "2"))),
            (&default, "model_1_2.pkl", Some(("1", "2"))),
            (&default, "model_pump_hall_7_temp.joblib", Some(("pump_hall_7", "temp"))),
            (&default, "model_a__b", Some(("a_", "b"))),
            (&default, "model_a", none),
            (&default, "model_a_", none),
            (&default, "model__a", none),
            (&default, "Model_1_2", none),
            (&default, "README.md", none),
            (&default, "model_a_b\n", none),
            (&other, "temp.of.d1+", Some(("d1", "temp"))),
            (&other, "temp.of.d1", none),
            (&other, "tempXofXd1+", none),
        ] {
            let found = pattern.series(file);
            let found = found.as_ref().map(|(s, _)| (s.device.as_str(), s.sensor.as_str()));
            assert_eq!(found, wanted, "{file}");
        }
        assert_eq!(default.series("model_1_2.pickle").unwrap().1, "model_1_2");
        for file in ["model_1_2.onnx", "model_1_2.json", "model_1_2.parquet"] {
            assert_eq!(default.series(file).unwrap().1, "model_1_2");
        }
        assert_eq!(default.name(&SeriesName::new("{sensor}", "b")), "model_{sensor}_b");
        assert_eq!(Pattern::new("{x{sensor}-{device}").unwrap().name(&SeriesName::new("a", "b")), "{xb-a");
        let long = format!("model_{}_s", "x".repeat(257));
        assert_eq!(default.series(&long), None);
    }

    #[test]
    fn a_pattern_has_both_parts_once() {
        for bad in ["model", "{device}", "{sensor}", "{device}_{device}_{sensor}", ""] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }
}
