//! Readings of a CSV file: header names in any case, times without a zone are UTC, file order.

use crate::exit::Fail;
use crate::input;
use fleetscore_schemas::time::Timestamp;
use fleetscore_settings::units::time_utc;
use std::io::Read;
use std::path::Path;

/// One reading as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub(crate) device: String,
    pub(crate) sensor: String,
    pub(crate) ts: Timestamp,
    pub(crate) value: f64,
}

/// Readings of a file, one after the other.
pub(crate) struct CsvReadings<R> {
    name: String,
    records: csv::StringRecordsIntoIter<R>,
    columns: [usize; 4],
}

/// Opens a file; `-` is standard input.
///
/// # Errors
/// A user error naming the file where it cannot be read or a column is missing.
pub(crate) fn open(path: &Path) -> Result<CsvReadings<Box<dyn Read + Send>>, Fail> {
    CsvReadings::new(path.display().to_string(), input::open("--csv", path)?)
}

/// The places of columns in a header, each by any of its names, in any case; of several names that are there, the one that
/// comes first in the list.
///
/// # Errors
/// A user error naming the file where the header is empty, a column is missing, or two have the same name.
pub(crate) fn places(
    file: &str,
    headers: &csv::StringRecord,
    wanted: &[&[&str]],
) -> Result<Vec<usize>, Fail> {
    if headers.iter().all(str::is_empty) {
        return Err(Fail::user(format!(
            "--csv: `{file}` has no first line; it names the columns device, sensor, ts and value"
        )));
    }
    let column = |names: &&[&str]| {
        for name in *names {
            let named = |h: &&str| h.trim().trim_start_matches('\u{feff}').trim().eq_ignore_ascii_case(name);
            let mut found = headers.iter().enumerate().filter(|(_, h)| named(h)).map(|(at, _)| at);
            match (found.next(), found.next()) {
                (Some(at), None) => return Ok(at),
                (Some(_), Some(_)) => {
                    return Err(Fail::user(format!(
                        "--csv: `{file}` has two columns `{name}`: which is meant?"
                    )));
                }
                (None, _) => {}
            }
        }
        let there = headers.iter().collect::<Vec<_>>().join(", ");
        Err(Fail::user(format!("--csv: `{file}` has no column {} (it has {there})", names.join(" or "))))
    };
    wanted.iter().map(column).collect()
}

impl<R: Read> CsvReadings<R> {
    pub(crate) fn new(name: String, input: R) -> Result<Self, Fail> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let headers = reader.headers().map_err(|e| Fail::user(format!("--csv: `{name}`: {e}")))?.clone();
        let columns =
            places(&name, &headers, &[&["device"], &["sensor"], &["ts", "timestamp"], &["value", "val"]])?;
        let columns = columns.try_into().expect("four are asked for");
        Ok(Self { name, records: reader.into_records(), columns })
    }

    fn reading(&self, record: &csv::StringRecord) -> Result<Reading, Fail> {
        let line = record.position().map_or(0, csv::Position::line);
        let fail = |what: String| Fail::user(format!("--csv: `{}` line {line}: {what}", self.name));
        let [device, sensor, ts, value] = self.columns.map(|c| record.get(c).unwrap_or_default());
        let number = value.parse::<f64>().ok().filter(|v| v.is_finite());
        Ok(Reading {
            device: device.to_owned(),
            sensor: sensor.to_owned(),
            ts: time_utc(ts).map_err(fail)?,
            value: number.ok_or_else(|| fail(format!("`{value}` is not a finite number")))?,
        })
    }
}

impl<R: Read> Iterator for CsvReadings<R> {
    type Item = Result<Reading, Fail>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.records.next()? {
            Ok(record) => self.reading(&record),
            Err(e) => Err(Fail::user(format!("--csv: `{}`: {e}", self.name))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Reading>, String> {
        CsvReadings::new("a.csv".into(), text.as_bytes())
            .and_then(Iterator::collect)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn names_in_any_case_and_order_and_times_without_a_zone() {
        let expected = Reading {
            device: "1".into(),
            sensor: "2".into(),
            ts: Timestamp(1_535_497_205_000_000),
            value: 12.25,
        };
        for text in [
            "TS,Device,Sensor,Value\n2018-08-28 23:00:05.000,1,2,12.25\n",
            "value,SENSOR,device,timestamp\n12.25,2,1,2018-08-28T23:00:05Z\n",
            "\u{feff}ts, device, sensor, val, more\r\n2018-08-29T01:00:05+02:00, 1, 2, 1.225e1, x\r\n",
        ] {
            assert_eq!(read(text).unwrap(), std::slice::from_ref(&expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "has no first line; it names the columns"),
            ("\n\n", "has no first line"),
            ("ts,device,sensor,value,Value\n", "has two columns `value`"),
            ("device,sensor,ts\n", "no column value or val (it has device, sensor, ts)"),
            ("ts,device,sensor,value\n2018,1,2,3\n", "line 2: `2018` is not a time"),
            (
                "ts,device,sensor,value\n2018-08-28,1,2,3\n2018-08-28,1,2,NaN\n",
                "line 3: `NaN` is not a finite number",
            ),
            ("ts,device,sensor,value\n2018-08-28,1,2\n", "line: 2"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(part) && message.contains("a.csv"), "{part} in {message}");
        }
    }
}
