//! The decision function of one-class support vector machines: ours on every path beside scikit-learn, onnxruntime and
//! linfa-svm, on one core, with the same models and rows; and a fleet in which every row has a model of its own.

mod fleet;
mod peers;
mod report;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use clap::Parser;
use fleetscore_kernel::{Kernel, Model, ModelColumns, Path};

/// Measures the decision function.
#[derive(Parser)]
struct Arguments {
    /// Write the results to this file as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Times that everything is measured, after once to warm up.
    #[arg(long, default_value_t = 9)]
    repetitions: usize,
    /// The Python with scikit-learn and onnxruntime (run.sh makes one).
    #[arg(long)]
    python: Option<PathBuf>,
    /// The script that runs in it.
    #[arg(long, default_value = "benchmarks/kernel/peers.py")]
    peers: PathBuf,
    /// Leave scikit-learn and onnxruntime out.
    #[arg(long)]
    no_python: bool,
}

/// What goes wrong, in words.
type Failure = Box<dyn std::error::Error>;

/// One model and its rows.
struct Case {
    name: String,
    model: Model,
    /// One column for each feature.
    columns: Vec<Vec<f64>>,
}

impl Case {
    /// A model with this many support vectors, and enough rows that one measurement takes milliseconds.
    fn new(vectors: usize, features: usize) -> Self {
        let mut random = fastrand::Rng::with_seed((vectors * 10 + features) as u64);
        let mut numbers = |n: usize, reach: f64| -> Vec<f64> {
            (0..n).map(|_| (random.f64() - 0.5) * 2.0 * reach).collect()
        };
        let support_vectors = numbers(vectors * features, 2.0);
        let dual_coef = numbers(vectors, 0.5).into_iter().map(|c| c + 0.75).collect::<Vec<f64>>();
        let rows = (2_000_000 / vectors).clamp(2_000, 400_000);
        let columns = (0..features).map(|_| numbers(rows, 3.0)).collect();
        let rho = dual_coef.iter().sum::<f64>() * 0.25;
        let kernel = Kernel::Rbf { gamma: 0.3 };
        let model = Model { features, mean: vec![], scale: vec![], kernel, support_vectors, dual_coef, rho };
        Self { name: format!("{features}x{vectors:04}"), model, columns }
    }

    fn rows(&self) -> usize {
        self.columns[0].len()
    }

    /// What decisions may differ by, as a part of the largest that is possible.
    fn size(&self) -> f64 {
        self.model.dual_coef.iter().sum::<f64>() + self.model.rho.abs()
    }

    /// Largest difference of decisions, as a part of [`Case::size`].
    fn difference(&self, ours: &[f64], theirs: &[f64]) -> Result<f64, Failure> {
        if ours.len() != theirs.len() {
            return Err(format!("{}: {} decisions for {} rows", self.name, theirs.len(), ours.len()).into());
        }
        let most = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        Ok(most / self.size())
    }
}

/// Seconds of each repetition by a clock, after one to warm up.
fn repeated(clock: fn() -> f64, repetitions: usize, mut f: impl FnMut()) -> Vec<f64> {
    f();
    (0..repetitions)
        .map(|_| {
            let start = clock();
            f();
            clock() - start
        })
        .collect()
}

/// Seconds that this thread has had a processor for: what else runs on the machine hardly counts.
fn thread_clock() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the struct it is given, which outlives it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if failed == 0 { time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9 } else { f64::NAN }
}

/// Seconds since the first call.
fn wall_clock() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

fn measure(case: &Case, repetitions: usize) -> Result<(report::Line, Vec<f64>), Failure> {
    let mut owned = ModelColumns::new(case.model.features);
    owned.push(Some(&case.model))?;
    let columns = owned.columns();
    let inputs: Vec<&[f64]> = case.columns.iter().map(Vec::as_slice).collect();
    // What scoring calls, on a path of one's choice.
    let of_row = vec![0; case.rows()];
    let mut line = report::Line::new(case.model.dual_coef.len(), case.model.features, case.rows());
    let mut first: Option<Vec<f64>> = None;
    for path in Path::available() {
        let mut out = vec![f64::NAN; case.rows()];
        let seconds = repeated(thread_clock, repetitions, || {
            columns.decisions_on(path, &of_row, &inputs, black_box(&mut out))
        });
        line.add(path.name(), &seconds);
        let first = first.get_or_insert_with(|| out.clone());
        if !first.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits()) {
            return Err(format!("{}: {} gives other bits", case.name, path.name()).into());
        }
    }
    let ours = first.ok_or("there is no path")?;
    let linfa = peers::Linfa::new(case)?;
    let mut normal = Vec::new();
    let seconds = repeated(thread_clock, repetitions.min(5), || normal = linfa.predict());
    line.add("linfa-svm", &seconds);
    let difference = case.difference(&ours[..linfa.some()], &linfa.decisions())?;
    let wrong = ours.iter().zip(&normal).filter(|(d, n)| (**d > 0.0) != **n && d.abs() > 1e-9).count();
    if difference > 1e-12 || normal.len() != ours.len() || wrong > 0 {
        return Err(format!("{}: linfa-svm differs by {difference:e}, {wrong} labels", case.name).into());
    }
    Ok((line, ours))
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let repetitions = arguments.repetitions.max(3);
    let mut lines = Vec::new();
    let mut decisions = Vec::new();
    let cases: Vec<Case> = [1, 5]
        .into_iter()
        .flat_map(|features| [1, 2, 11, 51, 201, 1000].map(|vectors| Case::new(vectors, features)))
        .collect();
    for case in &cases {
        let (line, ours) = measure(case, repetitions)?;
        lines.push(line);
        decisions.push(ours);
    }
    let python = arguments.python.as_ref().filter(|_| !arguments.no_python);
    let versions = match python {
        Some(python) => {
            peers::python(python, &arguments.peers, &cases, &decisions, repetitions.min(5), &mut lines)?
        }
        None => Vec::new(),
    };
    let fleet = fleet::measure(1_000_000, repetitions)?;
    report::print(&lines, &fleet, &versions);
    if let Some(file) = arguments.json {
        std::fs::write(&file, report::json(&lines, &fleet, &versions)?)?;
    }
    Ok(())
}
