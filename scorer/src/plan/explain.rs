//! What an anomaly lacks, in words: the ranges of values that a model of one feature calls normal, and for more features
//! the nearest normal value along each.

use fleetscore_kernel::{Model, is_anomaly, nearest_normal};
use fleetscore_schemas::window::Feature;
use std::fmt::{self, Write};

/// Most anomalies of one shard of an interval whose nearest normal values are looked for, the first ones by series: a search costs
/// hundreds of decisions, and where a set calls this many series anomalous, the set is what needs a look. Ranges of models
/// of one feature are stored with them and have no such bound.
pub(crate) const ROWS: usize = 1_000;

/// Ranges of values as text: `10.01 … 14.18`, several joined by `, `; `none` where no value is normal.
///
/// Bounds are rounded to five digits towards the inside, so that what the text calls normal is normal.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_ranges(
    out: &mut impl Write,
    ranges: impl IntoIterator<Item = (f64, f64)>,
) -> fmt::Result {
    let mut any = false;
    for (low, high) in ranges {
        if any {
            out.write_str(", ")?;
        }
        any = true;
        let (from, to) = (Rounded::of(low, Towards::Up), Rounded::of(high, Towards::Down));
        if from.value() > to.value() {
            // A range narrower than the rounding: as it is.
            write!(out, "{low} … {high}")?;
        } else {
            write!(out, "{from} … {to}")?;
        }
    }
    if any { Ok(()) } else { out.write_str("none") }
}

/// The nearest normal value along each feature, the others held: `mean 15.3 → 14.18, stddev 2.1 → none`.
///
/// Values are rounded to five digits, the normal ones away from the row's own; where the rounded one would not be normal,
/// it is given in full. `not looked for` and why, where the model is so large that it would take too long.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write_nearest(
    out: &mut impl Write,
    features: &[Feature],
    model: &Model,
    row: &[f64],
) -> fmt::Result {
    let Some(nearest) = nearest_normal(model, row) else {
        let (vectors, features) = (model.dual_coef.len(), model.features);
        return write!(out, "not looked for: {vectors} support vectors of {features} features take too long");
    };
    for (i, feature) in features.iter().enumerate() {
        let value = row[i];
        let own = Rounded::of(value, Towards::Nearest);
        write!(out, "{}{feature} {own} → ", if i > 0 { ", " } else { "" })?;
        let Some(found) = nearest.get(i).copied().flatten() else {
            out.write_str("none")?;
            continue;
        };
        let rounded = Rounded::of(found, if found > value { Towards::Up } else { Towards::Down });
        let mut moved = row.to_vec();
        moved[i] = rounded.value();
        if is_anomaly(model.decision(&moved)) {
            write!(out, "{found}")?;
        } else {
            write!(out, "{rounded}")?;
        }
    }
    Ok(())
}

/// Where a number that is cut to five digits goes.
#[derive(Clone, Copy)]
enum Towards {
    Up,
    Down,
    Nearest,
}

/// A number with five digits, or as it is where these would be hard to read.
#[derive(Clone, Copy)]
enum Rounded {
    Short(f64),
    Full(f64),
}

impl Rounded {
    fn of(v: f64, towards: Towards) -> Self {
        if v.is_infinite() {
            return Self::Full(v);
        }
        let digits = 4 - if v == 0.0 { 0 } else { v.abs().log10().floor() as i32 };
        let unit = 10f64.powi(digits);
        let scaled = v * unit;
        let rounded = match towards {
            Towards::Up => scaled.ceil(),
            Towards::Down => scaled.floor(),
            Towards::Nearest => scaled.round(),
        } / unit;
        if rounded.is_finite() && (-12..=9).contains(&-digits) { Self::Short(rounded) } else { Self::Full(v) }
    }

    fn value(self) -> f64 {
        match self {
            Self::Short(v) | Self::Full(v) => v,
        }
    }
}

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(v) => write!(f, "{v}"),
            Self::Full(v) if v.is_infinite() => f.write_str(if *v > 0.0 { "∞" } else { "−∞" }),
            Self::Full(v) => write!(f, "{v:e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleetscore_kernel::Kernel;

    #[test]
    fn several_features_are_explained_one_by_one() {
        // Normal where the mean is below 10; the other feature does not count.
        let model = Model {
            features: 2,
            mean: vec![],
            scale: vec![],
            kernel: Kernel::Linear,
            support_vectors: vec![1.0, 0.0],
            dual_coef: vec![-1.0],
            rho: -10.0,
        };
        let mut text = String::new();
        write_nearest(&mut text, &[Feature::Mean, Feature::Stddev], &model, &[15.3, 2.0]).unwrap();
        let (mean, stddev) = text.split_once(", ").unwrap();
        assert_eq!(stddev, "stddev 2 → none");
        let found: f64 = mean.strip_prefix("mean 15.3 → ").unwrap().parse().unwrap();
        assert!(found < 10.0 && found > 9.9, "{text}");
        assert!(!is_anomaly(model.decision(&[found, 2.0])), "what is called normal is normal");

        let (support_vectors, dual_coef) = (vec![0.5; 200_000], vec![-1.0; 100_000]);
        let large = Model { support_vectors, dual_coef, ..model };
        let mut text = String::new();
        write_nearest(&mut text, &[Feature::Mean, Feature::Stddev], &large, &[15.3, 2.0]).unwrap();
        assert_eq!(text, "not looked for: 100000 support vectors of 2 features take too long");
    }
}
