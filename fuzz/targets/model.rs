#![no_main]
//! What is computed of every imported model: its decisions, the values of one feature that it calls normal, and of several
//! features the nearest normal value along each. Any numbers are valid input as long as the model is.
use fleetscore_kernel::{Kernel, Model, is_anomaly, nearest_normal, normal_intervals};

/// Bytes of support vectors take at most so many times as much of samples, and a little always.
const MULTIPLE: usize = 128;
const ALWAYS: usize = 4 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(([kind, features], rest)) = data.split_first_chunk::<2>() else { return };
    let features = usize::from(*features % 3) + 1;
    let mut numbers = rest.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
    let mut next = || numbers.next().unwrap_or(0.5);
    let (gamma, coef0, rho) = (next(), next(), next());
    let kernel = match kind % 4 {
        0 => Kernel::Rbf { gamma },
        1 => Kernel::Linear,
        2 => Kernel::Poly { gamma, coef0, degree: u32::from(*kind >> 2) },
        _ => Kernel::Sigmoid { gamma, coef0 },
    };
    let scaled = |on: bool, next: &mut dyn FnMut() -> f64| match on {
        true => (0..features).map(|_| next()).collect(),
        false => Vec::new(),
    };
    let (mean, scale) = (scaled(kind & 0x40 != 0, &mut next), scaled(kind & 0x80 != 0, &mut next));
    let x: Vec<f64> = (0..features).map(|_| next()).collect();
    let rest: Vec<f64> = numbers.collect();
    let vectors = rest.len() / (features + 1);
    let (support_vectors, dual_coef) = rest[..vectors * (features + 1)].split_at(vectors * features);
    let (support_vectors, dual_coef) = (support_vectors.to_vec(), dual_coef.to_vec());
    let model = Model { features, mean, scale, kernel, support_vectors, dual_coef, rho };
    if model.validate().is_err() {
        return;
    }
    fleetscore_fuzz::bounded(data.len(), MULTIPLE, ALWAYS, || {
        let _ = model.decision(&x);
        if let Some(found) = normal_intervals(&model) {
            assert!(found.windows(2).all(|w| w[0].1 < w[1].0), "{found:?} do not ascend");
            for bound in found.iter().flat_map(|(from, to)| [from, to]).filter(|b| b.is_finite()) {
                assert!(!is_anomaly(model.decision(&[*bound])), "{bound} of {found:?} is an anomaly");
            }
        }
        let _ = nearest_normal(&model, &x);
    });
});
