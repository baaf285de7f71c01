//! Results for people (tables) and for scripts (JSON, CSV).

use comfy_table::{ContentArrangement, Table, presets};
use fleetscore_schemas::time::Timestamp;
use fleetscore_store::{Cell, QueryResult};
use std::io::{IsTerminal, Write};

/// Rows under headings, for the terminal.
pub(crate) fn table<R: IntoIterator<Item = Vec<String>>>(headings: &[&str], rows: R) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Prints to standard output; a reader that went away (`| head`) ends the program quietly.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Rows under headings, straight to standard output: for more rows than a table in memory should have. The rows are
/// gone through twice, first for the columns' widths.
pub(crate) fn print_rows<R: Iterator<Item = Vec<String>>>(headings: &[&str], rows: impl Fn() -> R) {
    let headings: Vec<String> = headings.iter().map(|h| h.to_uppercase()).collect();
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut line = |cells: &[String]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            // As `table` does it.
            text.push_str(&format!(" {cell:<width$} "));
        }
        writeln!(out, "{}", text.trim_end())
    };
    let written = line(&headings).and_then(|()| rows().try_for_each(|row| line(&row)));
    if written.and_then(|()| out.flush()).is_err() {
        std::process::exit(0); // as for `print`
    }
}

/// Text written piece by piece to standard output; a reader that went away ends the program quietly.
pub(crate) struct Writer(std::io::BufWriter<std::io::Stdout>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(std::io::BufWriter::new(std::io::stdout()))
    }

    pub(crate) fn write(&mut self, text: &str) {
        if self.0.write_all(text.as_bytes()).is_err() {
            std::process::exit(0);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.0.flush().is_err() {
            std::process::exit(0);
        }
    }
}

/// Says on a terminal that work goes on; nothing elsewhere. Gone when dropped.
pub(crate) struct Spinner(Option<indicatif::ProgressBar>);

impl Spinner {
    pub(crate) fn start(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = indicatif::ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Self(Some(bar))
    }

    /// How far it is.
    pub(crate) fn say(&self, text: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(text);
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A number of bytes as a person reads it.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

/// Rows that are shown of many: what was asked for (0 = all), else so many on a terminal and all elsewhere.
pub(crate) fn limit(asked: Option<usize>, on_terminal: usize) -> usize {
    match asked {
        Some(0) => usize::MAX,
        Some(n) => n,
        None if std::io::stdout().is_terminal() => on_terminal,
        None => usize::MAX,
    }
}

/// A time as short as a person needs it.
pub(crate) fn time(t: Timestamp) -> String {
    let text = t.to_rfc3339();
    text.strip_suffix(".000000Z").map_or(text.clone(), |t| format!("{t}Z"))
}

/// A time or nothing.
pub(crate) fn time_or_dash(t: Option<Timestamp>) -> String {
    t.map_or("-".to_owned(), time)
}

/// How `sql` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// Comma-separated, with headings.
    Csv,
    /// An array of objects.
    Json,
}

/// The result of a query in a format.
pub(crate) fn query(result: &QueryResult, format: Format) -> String {
    match format {
        Format::Table => {
            let headings: Vec<&str> = result.columns.iter().map(String::as_str).collect();
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(&headings);
            table.add_rows(result.rows.iter().map(|r| r.iter().map(cell)));
            let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
            let n = result.rows.len();
            format!("{}\n({n} row{})", lines.join("\n"), if n == 1 { "" } else { "s" })
        }
        Format::Csv => csv(result),
        Format::Json => json(result),
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Bool(b) => b.to_string(),
        Cell::Int(i) => i.to_string(),
        Cell::Float(f) => f.to_string(),
        Cell::Text(t) => t.clone(),
    }
}

fn csv(result: &QueryResult) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer
        .write_record(&result.columns)
        .and_then(|()| result.rows.iter().try_for_each(|r| writer.write_record(r.iter().map(cell))));
    let bytes =
        written.map_err(|e| e.to_string()).and_then(|()| writer.into_inner().map_err(|e| e.to_string()));
    let bytes = bytes.expect("memory takes everything, and all rows have the columns' length");
    String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()
}

/// Keys stay in the order of the columns, which a map would not keep.
fn json(result: &QueryResult) -> String {
    let names: Vec<String> = result.columns.iter().map(|c| json_text(c)).collect();
    let row = |cells: &Vec<Cell>| {
        let pairs: Vec<String> =
            names.iter().zip(cells).map(|(n, c)| format!("{n}:{}", json_cell(c))).collect();
        format!("{{{}}}", pairs.join(","))
    };
    let rows: Vec<String> = result.rows.iter().map(row).collect();
    format!("[{}]", rows.join(",\n "))
}

fn json_cell(cell: &Cell) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Bool(b) => b.to_string(),
        Cell::Int(i) => i.to_string(),
        // NaN and infinities have no JSON form.
        Cell::Float(f) => {
            serde_json::Number::from_f64(*f).map_or_else(|| json_text(&f.to_string()), |n| n.to_string())
        }
        Cell::Text(t) => json_text(t),
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> QueryResult {
        QueryResult {
            columns: vec!["z".into(), "a".into()],
            rows: vec![vec![Cell::Text("x,\"y".into()), Cell::Float(0.1)], vec![Cell::Null, Cell::Int(-3)]],
        }
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        let texts = [0, 999, 1000, 143_260_000, 5_000_000_000_000_000].map(bytes);
        assert_eq!(texts, ["0 B", "999 B", "1.0 kB", "143.3 MB", "5000.0 TB"]);
    }

    #[test]
    fn formats() {
        assert_eq!(query(&result(), Format::Csv), "z,a\n\"x,\"\"y\",0.1\n,-3");
        assert_eq!(
            query(&result(), Format::Json),
            "[{\"z\":\"x,\\\"y\",\"a\":0.1},\n {\"z\":null,\"a\":-3}]"
        );
        let parsed: serde_json::Value = serde_json::from_str(&query(&result(), Format::Json)).unwrap();
        assert_eq!(parsed[1]["a"], -3);
        assert!(query(&result(), Format::Table).ends_with("(2 rows)"));
    }
}
