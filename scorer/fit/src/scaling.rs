//! Scaling as scikit-learn's `StandardScaler`, and γ.

use crate::Gamma;

/// Scales columns to mean 0 and (population) deviation 1; a column that does not vary keeps its scale.
pub(crate) fn standardise(values: &mut [f64], width: usize) -> (Vec<f64>, Vec<f64>) {
    let rows = (values.len() / width) as f64;
    let (mut means, mut scales) = (Vec::with_capacity(width), Vec::with_capacity(width));
    for f in 0..width {
        let column = || values.iter().skip(f).step_by(width);
        let (mean, variance) = moments(column(), rows);
        let scale = if variance == 0.0 { 1.0 } else { variance.sqrt() };
        for v in values.iter_mut().skip(f).step_by(width) {
            *v = (*v - mean) / scale;
        }
        means.push(mean);
        scales.push(scale);
    }
    (means, scales)
}

/// Mean and population variance; a variance that is rounding noise of the mean is 0, as scikit-learn has it
/// (`sklearn.utils.extmath`, `_is_constant_feature`).
fn moments<'a>(values: impl Iterator<Item = &'a f64> + Clone, count: f64) -> (f64, f64) {
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    let noise = count * f64::EPSILON * variance + (count * mean * f64::EPSILON).powi(2);
    (mean, if variance <= noise { 0.0 } else { variance })
}

pub(crate) fn gamma(gamma: Gamma, values: &[f64], features: usize) -> f64 {
    match gamma {
        Gamma::Value(v) => v,
        Gamma::Auto => 1.0 / features as f64,
        Gamma::Scale => match moments(values.iter(), values.len() as f64) {
            // What scaling leaves of a constant is noise around 0, of no width to speak of.
            (_, variance) if variance > 1e-25 => 1.0 / (features as f64 * variance),
            _ => 1.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_is_that_of_a_standard_scaler() {
        let mut values = vec![1.0, 10.0, 2.0, 10.0, 3.0, 10.0, 6.0, 10.0];
        let (mean, scale) = standardise(&mut values, 2);
        assert_eq!(mean, [3.0, 10.0]);
        assert_eq!(scale, [3.5f64.sqrt(), 1.0]);
        assert!((values[0] + 2.0 / 3.5f64.sqrt()).abs() < 1e-15 && values[1] == 0.0);
        assert_eq!(gamma(Gamma::Auto, &values, 2), 0.5);
        assert!((gamma(Gamma::Scale, &[-1.0, 1.0, -1.0, 1.0], 1) - 1.0).abs() < 1e-15);
        assert_eq!(gamma(Gamma::Scale, &[0.0; 4], 2), 1.0);
    }
}
