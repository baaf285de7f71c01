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
    let said = psql(url, &script)?;
    let seconds: Vec<f64> = said.lines().filter_map(milliseconds).map(|ms| ms / 1e3).collect();
    std::fs::remove_file(folder.join("predictions.copy"))?;
    match seconds[..] {
        [windows_out, predictions_in] => Ok(Bare { windows_out, predictions_in }),
        _ => Err(format!("psql printed no times: {said}").into()),
    }
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
