//! Tables and JSON of what was measured.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Failure;
use crate::fleet::Fleet;

/// One figure, in ns per row and support vector.
struct Figure {
    who: String,
    median: f64,
    /// What the machine does where nothing else interferes.
    least: f64,
    /// Half the distance between the quartiles, as a part of the median.
    spread: f64,
}

/// The figures of one case.
pub(crate) struct Line {
    vectors: usize,
    features: usize,
    rows: usize,
    figures: Vec<Figure>,
}

/// Median and spread of repetitions.
fn summed_up(seconds: &[f64]) -> (f64, f64) {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted[(part * (sorted.len() - 1) as f64).round() as usize];
    (at(0.5), (at(0.75) - at(0.25)) / 2.0 / at(0.5))
}

impl Line {
    pub(crate) fn new(vectors: usize, features: usize, rows: usize) -> Self {
        Self { vectors, features, rows, figures: Vec::new() }
    }

    /// Adds a figure from the seconds of each repetition.
    pub(crate) fn add(&mut self, who: &str, seconds: &[f64]) {
        let (median, spread) = summed_up(seconds);
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let ns = 1e9 / (self.rows * self.vectors) as f64;
        self.figures.push(Figure { who: who.to_owned(), median: median * ns, least: least * ns, spread });
    }
}

/// The processor, how many of them, and how busy they were.
fn machine() -> Value {
    let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = text("/proc/cpuinfo");
    let name = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = text("/proc/loadavg").split(' ').next().unwrap_or("?").to_owned();
    json!({ "processor": name, "cores": cores, "load": load, "system": std::env::consts::OS })
}

/// Markdown on standard output.
pub(crate) fn print(lines: &[Line], fleet: &Fleet, versions: &[(String, String)]) {
    let machine = machine();
    println!(
        "Machine: {} × {}, load {} while measuring. One core each.",
        machine["cores"],
        machine["processor"].as_str().unwrap_or("?"),
        machine["load"].as_str().unwrap_or("?")
    );
    for (name, version) in versions {
        println!("{name} {version}.");
    }
    println!(
        "\nns per row × support vector: the least of all repetitions (their median ± half the quartiles' distance),"
    );
    println!("of processor time, and how many times the first column's the least is.\n");
    let Some(first) = lines.first() else { return };
    let names: Vec<&str> = first.figures.iter().map(|f| f.who.as_str()).collect();
    println!("| features | vectors | rows | {} |", names.join(" | "));
    println!("|{}", " ---: |".repeat(names.len() + 3));
    for line in lines {
        let ours = line.figures.first().map_or(f64::NAN, |f| f.least);
        print!("| {} | {} | {} |", line.features, line.vectors, line.rows);
        for (i, f) in line.figures.iter().enumerate() {
            print!(" {:.2} ({:.2} ± {:.0} %)", f.least, f.median, f.spread * 100.0);
            if i > 0 {
                print!(", {:.1} ×", f.least / ours);
            }
            print!(" |");
        }
        println!();
    }
    println!("\nAll paths gave the same bits; the others' decisions and labels were compared with ours.\n");
    println!("{} models of two vectors, all different, one row each:\n", fleet.models);
    println!("| what | seconds by the clock |\n| --- | ---: |");
    for (threads, seconds) in &fleet.scored {
        let (median, spread) = summed_up(seconds);
        println!("| scored on {threads} thread(s) | {median:.4} ± {:.0} % |", spread * 100.0);
    }
    println!("| validated | {:.4} |", summed_up(&fleet.validated).0);
    println!("| normal intervals, a hundredth of the models | {:.4} |", summed_up(&fleet.explained).0);
}

/// The same as JSON.
pub(crate) fn json(lines: &[Line], fleet: &Fleet, versions: &[(String, String)]) -> Result<Vec<u8>, Failure> {
    let figures = |line: &Line| -> BTreeMap<String, Value> {
        let of =
            |f: &Figure| (f.who.clone(), json!({ "ns": f.median, "least_ns": f.least, "spread": f.spread }));
        line.figures.iter().map(of).collect()
    };
    let cases: Vec<Value> = lines
        .iter()
        .map(|l| json!({ "features": l.features, "vectors": l.vectors, "rows": l.rows, "figures": figures(l) }))
        .collect();
    let scored: Vec<Value> = fleet
        .scored
        .iter()
        .map(|(threads, seconds)| json!({ "threads": threads, "seconds": summed_up(seconds).0, "spread": summed_up(seconds).1 }))
        .collect();
    let all = json!({
        "machine": machine(),
        "versions": versions.iter().cloned().collect::<BTreeMap<_, _>>(),
        "cases": cases,
        "fleet": {
            "models": fleet.models,
            "scored": scored,
            "validate_seconds": summed_up(&fleet.validated).0,
            "normal_intervals_seconds_of_a_hundredth": summed_up(&fleet.explained).0,
        },
    });
    Ok(serde_json::to_vec_pretty(&all)?)
}
