//! From a file's name to its series.

use fleetscore_schemas::SeriesName;
use regex::Regex;

/// `model_1_1` is the model of device `1`, sensor `1`.
pub const DEFAULT_PATTERN: &str = "model_{device}_{sensor}";

/// Endings that are dropped before the pattern is applied.
const EXTENSIONS: [&str; 3] = [".pkl", ".pickle", ".joblib"];

/// How file names are made of device and sensor.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
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
        Ok(Self { regex })
    }

    /// The series a file is for, with the model's name; `None` where the name is not of the pattern.
    pub fn series(&self, file_name: &str) -> Option<(SeriesName, String)> {
        let stem = EXTENSIONS.iter().find_map(|e| file_name.strip_suffix(e)).unwrap_or(file_name);
        let captures = self.regex.captures(stem)?;
        let part = |name: &str| captures.name(name).map(|m| m.as_str()).filter(|s| is_name(s));
        Some((SeriesName::new(part("device")?, part("sensor")?), stem.to_owned()))
    }
}

/// The rule for names of devices and sensors.
fn is_name(name: &str) -> bool {
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
