//! Two fits of one data set, compared, with a bound on what their tolerance may make of it.

use crate::sets::Set;
use fleetscore_benchmarks::Result;
use fleetscore_kernel::is_anomaly;

/// What one of the two found.
pub(crate) struct Found {
    pub(crate) seconds: f64,
    pub(crate) vectors: usize,
    /// Decisions of the rows with the solver's ρ.
    pub(crate) rows: Vec<f64>,
    /// Decisions of the points with the solver's ρ.
    pub(crate) points: Vec<f64>,
    /// What the border that is set afterwards adds to them.
    pub(crate) border: f64,
    pub(crate) steps: Option<u64>,
}

/// One data set, compared.
pub(crate) struct Compared {
    pub(crate) our_seconds: f64,
    pub(crate) their_seconds: f64,
    pub(crate) our_vectors: usize,
    pub(crate) their_vectors: usize,
    pub(crate) steps: u64,
    /// The greatest difference of decisions, without our border.
    pub(crate) difference: f64,
    /// What it may be, see [`allowed`].
    pub(crate) allowed: f64,
    /// Labels compared: of all rows and points.
    pub(crate) labels: usize,
    /// Those that differ without our border, and the greatest decision of them on either side.
    pub(crate) raw_differ: usize,
    pub(crate) differing_decision: f64,
    /// Those that differ with our border, and how many of them do because it moved.
    pub(crate) border_differ: usize,
    pub(crate) border_moved: usize,
    /// Training rows outside beyond ⌊ν·n⌋.
    pub(crate) our_excess: usize,
    pub(crate) their_excess: usize,
    /// What no tolerance explains.
    pub(crate) wrong: Option<String>,
}

/// How far decisions of two solutions of the same problem may be apart.
///
/// Both solvers stop where no pair of variables violates the conditions by more than the tolerance ε. As Σα = ν·n, the
/// dual objective is then within ε·ν·n of its optimum, and as it is quadratic in w with ‖w‖²/2, ‖w − w*‖² ≤ 2·ε·ν·n.
/// k(x, x) is 1, so ⟨w, x⟩ is off by at most √(2·ε·ν·n), twice that between two solutions; ρ lies between sums of two
/// rows that are ε apart, which are off by as much. (Where a solution has no row strictly between the bounds of its α, ρ
/// may lie anywhere between two rows, and this bound need not hold: such a set would be reported, to be looked at.)
fn allowed(set: &Set) -> f64 {
    let off = (2.0 * set.tolerance * set.nu * set.count() as f64).sqrt();
    4.0 * off + 2.0 * set.tolerance
}

/// Compares them.
pub(crate) fn compare(set: &Set, ours: &Found, theirs: &Found) -> Result<Compared> {
    if (ours.rows.len(), ours.points.len()) != (theirs.rows.len(), theirs.points.len()) {
        return Err("scikit-learn's answer is cut off".into());
    }
    let pairs = || ours.rows.iter().chain(&ours.points).zip(theirs.rows.iter().chain(&theirs.points));
    let difference = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let differs = |(a, b): &(&f64, &f64)| is_anomaly(**a) != is_anomaly(**b);
    let raw: Vec<_> = pairs().filter(differs).collect();
    let with_border: Vec<_> =
        pairs().filter(|(a, b)| is_anomaly(*a + ours.border) != is_anomaly(**b)).collect();
    let moved = with_border.iter().filter(|(a, _)| is_anomaly(**a) != is_anomaly(*a + ours.border)).count();
    let outside = |found: &Found| found.rows.iter().filter(|d| is_anomaly(*d + found.border)).count();
    let may = (set.nu * set.count() as f64).floor() as usize;
    let allowed = allowed(set);
    let too_far = !(difference <= allowed);
    let our_excess = outside(ours).saturating_sub(may);
    let wrong = if too_far {
        Some(format!(
            "{}, {} rows, nu {}, tolerance {:e}: decisions differ by {difference:e}, {allowed:e} are explained",
            set.kind,
            set.count(),
            set.nu,
            set.tolerance
        ))
    } else if our_excess > 0 {
        Some(format!("{}: {our_excess} rows beyond nu are outside", set.kind))
    } else {
        None
    };
    Ok(Compared {
        our_seconds: ours.seconds,
        their_seconds: theirs.seconds,
        our_vectors: ours.vectors,
        their_vectors: theirs.vectors,
        steps: ours.steps.unwrap_or(0),
        difference,
        allowed,
        labels: pairs().count(),
        raw_differ: raw.len(),
        differing_decision: raw.iter().map(|(a, b)| a.abs().max(b.abs())).fold(0.0, f64::max),
        border_differ: with_border.len(),
        border_moved: moved,
        our_excess,
        their_excess: outside(theirs).saturating_sub(may),
        wrong,
    })
}
