//! One report: machine, settings, tables with ratios, goals; printed as Markdown and written as JSON.

use crate::{Result, child};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// One value of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Count(u64),
    /// A number with so many decimals where it is printed; JSON keeps all of them.
    Number(f64, usize),
    /// Not measured.
    Missing,
}

impl Cell {
    /// A number with so many decimals; missing where there is none.
    pub fn number(value: impl Into<Option<f64>>, decimals: usize) -> Self {
        value.into().map_or(Self::Missing, |v| Self::Number(v, decimals))
    }

    /// Bytes as MB (10^6).
    pub fn megabytes(bytes: impl Into<Option<u64>>) -> Self {
        Self::number(bytes.into().map(|b| b as f64 / 1e6), 1)
    }

    /// Median, least and most of some figures.
    pub fn spread(all: &[f64], decimals: usize) -> [Self; 3] {
        let (least, most) = (all.iter().copied().reduce(f64::min), all.iter().copied().reduce(f64::max));
        [median(all), least, most].map(|figure| Self::number(figure, decimals))
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(n) => grouped(*n),
            Self::Number(v, 0) if v.abs() < 1e15 => {
                format!("{}{}", if *v <= -0.5 { "-" } else { "" }, grouped(v.abs().round() as u64))
            }
            Self::Number(v, decimals) => format!("{v:.decimals$}"),
            Self::Missing => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Count(n) => json!(n),
            Self::Number(v, _) => json!(v),
            Self::Missing => Value::Null,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(n: u64) -> Self {
        Self::Count(n)
    }
}

/// 1234567 as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A table of results.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    title: String,
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table; units belong into the headings.
    pub fn new(title: impl Into<String>, headings: &[&str]) -> Self {
        let headings = headings.iter().map(|h| (*h).to_owned()).collect();
        Self { title: title.into(), headings, rows: Vec::new() }
    }

    /// Adds a row: one cell for each heading.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.headings.len(), "one cell for each heading of `{}`", self.title);
        self.rows.push(cells);
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::ASCII_MARKDOWN).set_header(&self.headings);
        for row in &self.rows {
            table.add_row(row.iter().map(Cell::text));
        }
        for (i, column) in table.column_iter_mut().enumerate() {
            if self.rows.iter().any(|r| matches!(r[i], Cell::Count(_) | Cell::Number(..))) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
        format!("### {}\n\n{table}\n", self.title)
    }

    fn json(&self) -> Value {
        let row = |cells: &Vec<Cell>| -> Value {
            self.headings
                .iter()
                .cloned()
                .zip(cells.iter().map(Cell::json))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({ "title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

/// What was aimed at, and whether this run reached it.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// In words, with the figure aimed at.
    pub what: String,
    /// The figure of this run.
    pub measured: f64,
    /// Whether it is reached.
    pub reached: bool,
}

impl Goal {
    /// A figure that is to be at most this.
    pub fn at_most(what: impl Into<String>, goal: f64, measured: f64) -> Self {
        Self { what: format!("{} ≤ {goal}", what.into()), measured, reached: measured <= goal }
    }

    /// A figure that is to be at least this.
    pub fn at_least(what: impl Into<String>, goal: f64, measured: f64) -> Self {
        Self { what: format!("{} ≥ {goal}", what.into()), measured, reached: measured >= goal }
    }
}

/// All that one run of a benchmark has to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    name: String,
    machine: Machine,
    settings: Vec<(String, String)>,
    tables: Vec<Table>,
    goals: Vec<Goal>,
}

impl Report {
    /// An empty report of this machine.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            machine: Machine::here(),
            settings: Vec::new(),
            tables: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Something a reader must know to read the figures.
    pub fn setting(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.settings.push((key.into(), value.into()));
    }

    /// Notes which binary is measured.
    ///
    /// # Errors
    /// It does not start.
    pub fn binary(&mut self, fleetscore: &Path) -> Result<()> {
        let version = child::succeed(Command::new(fleetscore).arg("--version"))?.stdout;
        self.setting("binary", format!("{} ({})", fleetscore.display(), version.trim()));
        Ok(())
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Adds a goal.
    pub fn goal(&mut self, goal: Goal) {
        self.goals.push(goal);
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n* machine: {}\n", self.name, self.machine.text());
        for (key, value) in &self.settings {
            out.push_str(&format!("* {key}: {value}\n"));
        }
        for table in &self.tables {
            out.push_str(&format!("\n{}", table.markdown()));
        }
        if !self.goals.is_empty() {
            out.push('\n');
        }
        for goal in &self.goals {
            let word = if goal.reached { "reached" } else { "NOT reached" };
            out.push_str(&format!("* goal {}: {word} ({:.3})\n", goal.what, goal.measured));
        }
        out
    }

    /// The report as JSON, numbers with all their digits.
    pub fn json(&self) -> Value {
        let settings: serde_json::Map<_, _> =
            self.settings.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let goals: Vec<_> = self
            .goals
            .iter()
            .map(|g| json!({ "goal": g.what, "measured": g.measured, "reached": g.reached }))
            .collect();
        json!({
            "benchmark": self.name,
            "machine": self.machine.json(),
            "settings": settings,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
            "goals": goals,
        })
    }

    /// Prints it, and writes the JSON where a file is named.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn publish(&self, json: Option<&Path>) -> Result<()> {
        println!("{}", self.markdown());
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(&self.json())?;
            std::fs::write(path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }
}

/// What the figures were measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Threads that run at once.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// The operating system.
    pub system: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str, by: char| {
            text.lines()
                .filter_map(|l| l.split_once(by))
                .find(|(k, _)| k.trim() == key)
                .map(|(_, v)| v.trim().trim_matches('"').to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':');
        let kernel = read("/proc/sys/kernel/osrelease");
        let system = field(&read("/etc/os-release"), "PRETTY_NAME", '=');
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name", ':')
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory
                .and_then(|m| m.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()))
                .map(|kib| kib * 1024),
            system: format!(
                "{}, kernel {}",
                system.unwrap_or_else(|| std::env::consts::OS.to_owned()),
                if kernel.is_empty() { "unknown" } else { kernel.trim() }
            ),
        }
    }

    fn text(&self) -> String {
        let memory = self.memory_bytes.map_or(String::new(), |b| format!(", {} GiB", b >> 30));
        format!("{}, {} cores{memory}, {}", self.processor, self.cores, self.system)
    }

    fn json(&self) -> Value {
        json!({
            "processor": self.processor, "cores": self.cores, "memory_bytes": self.memory_bytes,
            "system": self.system,
        })
    }
}

/// The middle one (of two, their mean); `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n.is_multiple_of(2) => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        _ => Some(sorted[middle]),
    }
}

/// The value that this share of all values does not exceed (nearest rank); `None` of nothing.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), Some(50.0));
        assert_eq!(quantile(&values, 0.99), Some(99.0));
        assert_eq!(quantile(&[7.0], 0.01), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn tables_print_for_people_and_keep_digits_for_programs() {
        let mut table = Table::new("T", &["what", "n", "s"]);
        table.row(vec!["a".into(), Cell::Count(1_234_567), Cell::number(1.23456, 2)]);
        table.row(vec!["b".into(), Cell::Number(98765.4, 0), Cell::Missing]);
        let text = table.markdown();
        for part in ["### T", "1,234,567", "98,765", "1.23", " - "] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let mut report = Report::new("test");
        report.table(table);
        report.goal(Goal::at_most("seconds", 2.0, 1.0));
        report.goal(Goal::at_least("times", 100.0, 99.0));
        let json = report.json();
        assert_eq!(json["tables"][0]["rows"][0]["s"], 1.23456);
        assert!(json["tables"][0]["rows"][1]["s"].is_null());
        assert_eq!(
            (&json["goals"][0]["reached"], &json["goals"][1]["reached"]),
            (&json!(true), &json!(false))
        );
        assert!(json["machine"]["cores"].as_u64().is_some_and(|n| n >= 1));
    }
}
