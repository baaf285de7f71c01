//! `benchmarks/training/run.sh`: fits by linfa-svm, as `fleetscore models train` makes them, beside scikit-learn's on the
//! same data sets, one core each: decisions, labels, fits a second.

mod compare;
mod sets;

use clap::Parser;
use compare::{Compared, Found, compare};
use fleetscore_benchmarks::report::{Cell, Goal, Report, Table, median};
use fleetscore_benchmarks::{Result, child};
use fleetscore_fit::{FitOptions, Gamma, fit};
use sets::{ROWS, Set, TOLERANCES, sets};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Fits beside scikit-learn's.
#[derive(Debug, Parser)]
struct Args {
    /// Python with scikit-learn.
    #[arg(long, value_name = "FILE")]
    python: PathBuf,
    /// peer.py.
    #[arg(long, value_name = "FILE")]
    peer: PathBuf,
    /// Data sets.
    #[arg(long, default_value_t = 200)]
    sets: usize,
    /// Times each is fitted; the fastest counts.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Makes the data sets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("training: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("fleetscore-benchmark-").tempdir()?;
    let sets = sets(args.sets, args.seed);
    write(folder.path(), &sets)?;
    let ours: Vec<Found> = sets.iter().map(|set| fitted(set, args.repeats)).collect::<Result<_>>()?;
    let mut peer = Command::new(&args.python);
    peer.arg(&args.peer).arg(folder.path()).arg(args.repeats.max(1).to_string());
    // One core, as ours.
    for threads in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"] {
        peer.env(threads, "1");
    }
    let versions = child::succeed(&mut peer)?.stdout;
    let mut compared = Vec::new();
    for (n, (set, ours)) in sets.iter().zip(&ours).enumerate() {
        let theirs = read(&folder.path().join(format!("{n}.found")), set)?;
        compared.push(compare(set, ours, &theirs).map_err(|e| format!("set {n}, {}: {e}", set.kind))?);
    }
    report(args, versions.trim(), &sets, &compared).publish(args.json.as_deref())?;
    let wrong: Vec<String> = compared.iter().filter_map(|c| c.wrong.clone()).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Fits one set; the fastest of some times.
fn fitted(set: &Set, repeats: usize) -> Result<Found> {
    let options = FitOptions {
        nu: set.nu,
        gamma: Gamma::Scale,
        tolerance: set.tolerance,
        standardise: true,
        ..FitOptions::default()
    };
    let mut best: Option<(f64, fleetscore_fit::Fitted)> = None;
    for _ in 0..repeats.max(1) {
        let begun = Instant::now();
        let fitted = fit(&set.rows, set.features, &options).map_err(|e| format!("{}: {e}", set.kind))?;
        let seconds = begun.elapsed().as_secs_f64();
        if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
            best = Some((seconds, fitted));
        }
    }
    let (seconds, fitted) = best.ok_or("nothing was fitted")?;
    // Sums as the solver left them; ρ is taken off where they are compared.
    let mut raw = fitted.model.clone();
    raw.rho = fitted.solver_rho;
    let decide = |values: &[f64]| values.chunks_exact(set.features).map(|x| raw.decision(x)).collect();
    Ok(Found {
        seconds,
        vectors: fitted.model.dual_coef.len(),
        rows: decide(&set.rows),
        points: decide(&set.points),
        // What is added to a decision by the border that we set.
        border: fitted.solver_rho - fitted.model.rho,
        steps: Some(fitted.steps),
    })
}

fn write(folder: &Path, sets: &[Set]) -> Result<()> {
    std::fs::write(folder.join("sets.json"), serde_json::to_vec(sets)?)?;
    for (n, set) in sets.iter().enumerate() {
        for (end, values) in [("rows", &set.rows), ("points", &set.points)] {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(folder.join(format!("{n}.{end}")), bytes)?;
        }
    }
    Ok(())
}

fn read(file: &Path, set: &Set) -> Result<Found> {
    let bytes = std::fs::read(file)?;
    let mut values =
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes at a time")));
    let mut take = |n: usize| -> Vec<f64> { values.by_ref().take(n).collect() };
    let (head, rows, points) = (take(2), take(set.count()), take(set.points.len() / set.features));
    let &[seconds, vectors] = &head[..] else { return Err("scikit-learn's answer is cut off".into()) };
    Ok(Found { seconds, vectors: vectors as usize, rows, points, border: 0.0, steps: None })
}

fn report(args: &Args, versions: &str, sets: &[Set], compared: &[Compared]) -> Report {
    let mut report = Report::new("Fits beside scikit-learn's");
    report.setting("beside", format!("{versions}; one thread each, one after the other"));
    report.setting(
        "a fit",
        format!(
            "scaling, γ = scale and the solver; ours also sets the border. The fastest of {}",
            args.repeats
        ),
    );
    report.setting("data", format!("{} sets by seed {}", sets.len(), args.seed));
    report.table(decisions(sets, compared));
    report.table(borders(sets, compared));
    report.table(speed(sets, compared));
    let within = compared.iter().filter(|c| c.wrong.is_none()).count();
    report.goal(Goal::at_least(
        "sets whose decisions differ by no more than the tolerances explain",
        sets.len() as f64,
        within as f64,
    ));
    let ours: f64 = compared.iter().map(|c| c.our_seconds).sum();
    let theirs: f64 = compared.iter().map(|c| c.their_seconds).sum();
    report.goal(Goal::at_least("fits a second, all sets, × scikit-learn's", 1.0, theirs / ours));
    report
}

/// The sets of one tolerance, compared.
fn of<'a>(
    sets: &'a [Set],
    compared: &'a [Compared],
    tolerance: f64,
) -> impl Iterator<Item = (&'a Set, &'a Compared)> + Clone {
    sets.iter().zip(compared).filter(move |(set, _)| set.tolerance == tolerance)
}

fn decisions(sets: &[Set], compared: &[Compared]) -> Table {
    let mut table = Table::new(
        "Decisions of the solver alone",
        &[
            "tolerance",
            "sets",
            "greatest difference of decisions",
            "its share of what the tolerance allows",
            "labels compared",
            "labels that differ",
            "greatest decision of those",
            "support vectors, ours / scikit-learn's",
        ],
    );
    for tolerance in TOLERANCES {
        let those = of(sets, compared, tolerance);
        let most = |f: &dyn Fn(&Compared) -> f64| those.clone().map(|(_, c)| f(c)).fold(0.0, f64::max);
        let sum = |f: &dyn Fn(&Compared) -> usize| those.clone().map(|(_, c)| f(c)).sum::<usize>();
        table.row(vec![
            format!("{tolerance:e}").into(),
            (those.clone().count() as u64).into(),
            format!("{:.1e}", most(&|c| c.difference)).into(),
            Cell::number(most(&|c| c.difference / c.allowed), 4),
            (sum(&|c| c.labels) as u64).into(),
            (sum(&|c| c.raw_differ) as u64).into(),
            format!("{:.1e}", most(&|c| c.differing_decision)).into(),
            Cell::number(sum(&|c| c.our_vectors) as f64 / sum(&|c| c.their_vectors) as f64, 3),
        ]);
    }
    table
}

fn borders(sets: &[Set], compared: &[Compared]) -> Table {
    let mut table = Table::new(
        "With the border that we set: at most ν of the training rows are outside",
        &[
            "tolerance",
            "sets",
            "ours with more outside than ν allows",
            "scikit-learn's with more",
            "most of those beyond ν, in rows",
            "labels that differ from scikit-learn's",
            "of them where the border moved",
        ],
    );
    for tolerance in TOLERANCES {
        let those = of(sets, compared, tolerance);
        let sum = |f: &dyn Fn(&Compared) -> usize| those.clone().map(|(_, c)| f(c)).sum::<usize>() as u64;
        let most = those.clone().map(|(_, c)| c.their_excess).max().unwrap_or(0);
        table.row(vec![
            format!("{tolerance:e}").into(),
            (those.clone().count() as u64).into(),
            sum(&|c| usize::from(c.our_excess > 0)).into(),
            sum(&|c| usize::from(c.their_excess > 0)).into(),
            (most as u64).into(),
            sum(&|c| c.border_differ).into(),
            sum(&|c| c.border_moved).into(),
        ]);
    }
    table
}

fn speed(sets: &[Set], compared: &[Compared]) -> Table {
    let mut table = Table::new(
        "Fits a second, one core each",
        &["rows", "tolerance", "sets", "ours", "scikit-learn", "ratio", "steps: median", "steps: most"],
    );
    for rows in ROWS {
        for tolerance in TOLERANCES {
            let those = of(sets, compared, tolerance).filter(|(set, _)| set.count() == rows);
            let count = those.clone().count();
            if count == 0 {
                continue;
            }
            let rate =
                |f: &dyn Fn(&Compared) -> f64| count as f64 / those.clone().map(|(_, c)| f(c)).sum::<f64>();
            let (ours, theirs) = (rate(&|c| c.our_seconds), rate(&|c| c.their_seconds));
            let steps: Vec<f64> = those.clone().map(|(_, c)| c.steps as f64).collect();
            table.row(vec![
                (rows as u64).into(),
                format!("{tolerance:e}").into(),
                (count as u64).into(),
                Cell::number(ours, 1),
                Cell::number(theirs, 1),
                Cell::number(ours / theirs, 2),
                Cell::number(median(&steps), 0),
                Cell::number(steps.iter().copied().fold(0.0, f64::max), 0),
            ]);
        }
    }
    table
}
