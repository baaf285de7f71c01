//! `make simulate SEEDS=100000`: runs seeds, counts distinct courses of events, ends with status 1 where one failed.

use clap::{Parser, ValueEnum};
use fleetscore_simulation::mutants::Mutant;
use fleetscore_simulation::{Course, Parts, simulate};
use std::collections::{BTreeMap, HashSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The aggregator under every fault: deterministic, one seed, one course of events.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run one seed alone and print what happened, line by line.
    #[arg(long)]
    seed: Option<u64>,
    /// With a mistake made on purpose: status 0 where it is found.
    #[arg(long)]
    mutant: Option<Mutant>,
    /// With each mistake in turn, until it is found.
    #[arg(long)]
    mutants: bool,
    /// Seeds at a time [default: the number of cores].
    #[arg(long)]
    threads: Option<usize>,
}

/// All courses together.
#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    interleavings: HashSet<u64>,
    steps: u64,
    messages: u64,
    checkpoints: u64,
    fences: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: BTreeMap<u64, String>,
}

impl Sum {
    fn add(&mut self, seed: u64, course: Course) {
        self.seeds += 1;
        self.interleavings.insert(course.interleaving);
        self.steps += course.steps;
        self.messages += course.messages;
        self.checkpoints += course.checkpoints;
        self.fences += course.fences;
        for (name, n) in course.faults {
            *self.faults.entry(name).or_default() += n;
        }
        if let Some(what) = course.failure {
            self.failed.insert(seed, what);
        }
    }

    fn print(&self, seconds: f64) {
        println!("| what | n |\n| --- | ---: |");
        for (what, n) in [
            ("seeds", self.seeds),
            ("distinct interleavings", self.interleavings.len() as u64),
            ("events", self.steps),
            ("messages", self.messages),
            ("checkpoints", self.checkpoints),
            ("checkpoints that found another claim", self.fences),
        ] {
            println!("| {what} | {n} |");
        }
        for (name, n) in &self.faults {
            println!("| fault: {name} | {n} |");
        }
        println!("| seeds that failed | {} |", self.failed.len());
        println!("\n{seconds:.1} s, {:.0} seeds a second", self.seeds as f64 / seconds);
        for (seed, what) in self.failed.iter().take(5) {
            println!("\nseed {seed}: {what}\n    replay: make simulate SEED={seed}");
        }
    }
}

/// Runs a range of seeds; `first` ends it at the first that fails.
fn run(from: u64, seeds: u64, mutant: Option<Mutant>, threads: usize, first: bool) -> Sum {
    let (next, over) = (AtomicU64::new(from), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let parts = Parts::light();
                while !over.load(SeqCst) {
                    let seed = next.fetch_add(1, SeqCst);
                    if seed >= from + seeds {
                        break;
                    }
                    let course = simulate(seed, mutant, &parts, false);
                    if first && course.failure.is_some() {
                        over.store(true, SeqCst);
                    }
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(seed, course);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = arguments.threads.unwrap_or(cores);
    if let Some(seed) = arguments.seed.filter(|_| !arguments.mutants) {
        let course = simulate(seed, arguments.mutant, &Parts::light(), true);
        course.trace.iter().for_each(|line| println!("{line}"));
        println!(
            "{} messages, {} checkpoints, {} fences",
            course.messages, course.checkpoints, course.fences
        );
        let failed = course.failure.is_some() != arguments.mutant.is_some();
        println!("{}", course.failure.unwrap_or_else(|| "all is as the oracle says".into()));
        return ExitCode::from(u8::from(failed));
    }
    let mutants: Vec<Mutant> = match arguments.mutants {
        true => Mutant::value_variants().to_vec(),
        false => arguments.mutant.into_iter().collect(),
    };
    if !mutants.is_empty() {
        let mut all = true;
        for mutant in mutants {
            // One after the other, so that the number of seeds it took means something.
            let sum = run(arguments.from, arguments.seeds, Some(mutant), 1, true);
            match sum.failed.first_key_value() {
                Some((seed, what)) => {
                    println!("{mutant:?}: found by seed {seed}, after {} seeds: {what}", sum.seeds);
                    let name =
                        mutant.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
                    println!("    replay: make simulate SEED={seed} MUTANT={name}");
                }
                None => println!("{mutant:?}: NOT FOUND within {} seeds", sum.seeds),
            }
            all &= !sum.failed.is_empty();
        }
        return ExitCode::from(u8::from(!all));
    }
    let begun = Instant::now();
    let sum = run(arguments.from, arguments.seeds, None, threads, false);
    sum.print(begun.elapsed().as_secs_f64());
    ExitCode::from(u8::from(!sum.failed.is_empty()))
}
