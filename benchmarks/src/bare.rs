//! What PostgreSQL itself takes for the same rows: a bare COPY out and a bare COPY in, by its own client.

use crate::Result;
use crate::server::psql;
use fleetscore_schemas::time::Timestamp;
use std::path::Path;

/// Seconds of the bare COPY of one interval's rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bare {
    /// Windows in series order, binary, into nothing.
    pub windows_out: f64,
    /// Predictions, binary and sorted, into an empty table with the same primary key.
    pub predictions_in: f64,
}

impl Bare {
    /// Both.
    pub fn seconds(&self) -> f64 {
        self.windows_out + self.predictions_in
    }
}

/// Copies the rows of the interval that starts here; `folder` takes the file in between.
///
/// # Errors
/// A statement failed.
pub fn measure(url: &str, start: Timestamp, folder: &Path) -> Result<Bare> {
    let (at, file) = (start.to_rfc3339(), folder.join("predictions.copy"));
    let file = file.display();
    let script = format!(
        "\\timing on\n\
         \\copy (SELECT series_id, count, sum, m2, min, max, first_ts, first_value, last_ts, last_value, version FROM pane_data WHERE pane_start = '{at}' ORDER BY series_id) TO '/dev/null' WITH (FORMAT binary)\n\
         \\timing off\n\
         \\copy (SELECT * FROM prediction_data WHERE window_start = '{at}' ORDER BY series_id) TO '{file}' WITH (FORMAT binary)\n\
         CREATE TABLE bare_prediction_data (LIKE prediction_data INCLUDING DEFAULTS, PRIMARY KEY (schedule, window_start, series_id));\n\
         \\timing on\n\
         \\copy bare_prediction_data FROM '{file}' WITH (FORMAT binary)\n\
         \\timing off\n\
         DROP TABLE bare_prediction_data;\n"
    );
    let [windows_out, predictions_in] = timings(url, &script)?;
    std::fs::remove_file(folder.join("predictions.copy"))?;
    Ok(Bare { windows_out, predictions_in })
}

/// Seconds that the same panes take without us, into a table with the same key that is not parted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merged {
    /// A binary COPY of all rows, sorted by key, into the empty table.
    pub copy: f64,
    /// One statement that merges the same rows, which lie in a table beside, into those that are there now, by `ON CONFLICT
    /// DO UPDATE`.
    pub upsert: f64,
}

/// Copies a pane's rows into a table of their own and merges them into it once more; `folder` takes the file in between.
///
/// # Errors
/// A statement failed.
pub fn merge(url: &str, start: Timestamp, folder: &Path) -> Result<Merged> {
    let (at, file) = (start.to_rfc3339(), folder.join("panes.copy"));
    let file = file.display();
    let script = format!(
        "\\copy (SELECT * FROM pane_data WHERE pane_start = '{at}' ORDER BY series_id) TO '{file}' WITH (FORMAT binary)\n\
         CREATE TABLE bare_pane_data (LIKE pane_data INCLUDING DEFAULTS, PRIMARY KEY (pane_start, series_id));\n\
         CREATE UNLOGGED TABLE more_pane_data (LIKE pane_data);\n\
         \\copy more_pane_data FROM '{file}' WITH (FORMAT binary)\n\
         ANALYZE more_pane_data;\n\
         \\timing on\n\
         \\copy bare_pane_data FROM '{file}' WITH (FORMAT binary)\n\
         \\timing off\n\
         ANALYZE bare_pane_data;\n\
         \\timing on\n\
         INSERT INTO bare_pane_data AS p SELECT * FROM more_pane_data ORDER BY pane_start, series_id \
         ON CONFLICT (pane_start, series_id) DO UPDATE SET \
         count = p.count + excluded.count, sum = p.sum + excluded.sum, \
         m2 = p.m2 + excluded.m2 + (excluded.sum / excluded.count - p.sum / p.count) ^ 2 \
         * p.count * excluded.count / (p.count + excluded.count), \
         min = least(p.min, excluded.min), max = greatest(p.max, excluded.max), \
         first_ts = least(p.first_ts, excluded.first_ts), \
         first_value = CASE WHEN p.first_ts <= excluded.first_ts THEN p.first_value ELSE excluded.first_value END, \
         last_ts = greatest(p.last_ts, excluded.last_ts), \
         last_value = CASE WHEN excluded.last_ts <= p.last_ts THEN p.last_value ELSE excluded.last_value END, \
         version = p.version + 1;\n\
         \\timing off\n\
         DROP TABLE bare_pane_data, more_pane_data;\n"
    );
    let [copy, upsert] = timings(url, &script)?;
    std::fs::remove_file(folder.join("panes.copy"))?;
    Ok(Merged { copy, upsert })
}

/// What psql says that statements took, in seconds.
fn timings<const N: usize>(url: &str, script: &str) -> Result<[f64; N]> {
    let said = psql(url, script)?;
    let seconds: Vec<f64> = said.lines().filter_map(milliseconds).map(|ms| ms / 1e3).collect();
    seconds.try_into().map_err(|_| format!("psql printed other than {N} times: {said}").into())
}

/// `Time: 1234.567 ms (00:01.235)`.
fn milliseconds(line: &str) -> Option<f64> {
    line.strip_prefix("Time: ")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_of_psql_are_understood() {
        assert_eq!(super::milliseconds("Time: 1234.567 ms (00:01.235)"), Some(1234.567));
        assert_eq!(super::milliseconds("Time: 0.567 ms"), Some(0.567));
        assert_eq!(super::milliseconds("COPY 10"), None);
    }
}
