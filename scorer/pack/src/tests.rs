//! Packs written and read again, and bytes that nobody should trust.

use super::*;
use bytes::Bytes;
use fleetscore_kernel::{Kernel, Model, NO_MODEL};
use proptest::prelude::*;

const PATTERN: &str = "model_{device}_{sensor}";

/// A model of one feature with two support vectors.
fn small(gamma: f64) -> Model {
    Model {
        features: 1,
        mean: vec![10.0],
        scale: vec![2.0],
        kernel: Kernel::Rbf { gamma },
        support_vectors: vec![-1.0, 1.0],
        dual_coef: vec![0.5, 0.5],
        rho: 0.3,
    }
}

fn entry(series: u32, outcome: Result<Model, String>) -> Entry {
    let (device, sensor) = (format!("d{}", series / 3), format!("s{}", series % 3));
    Entry {
        series,
        model: format!("model_{device}_{sensor}"),
        normal: outcome.as_ref().ok().filter(|m| m.features == 1).map(|_| vec![(8.0, 12.5)]),
        device,
        sensor,
        outcome,
        rows: series % 5,
    }
}

fn pack(features: usize, entries: &[Entry]) -> Bytes {
    let mut builder = ShardBuilder::new(features, PATTERN);
    for e in entries {
        builder.push(e).unwrap();
    }
    builder.finish().unwrap()
}

/// Everything a shard can be asked for, so that nothing that `open` let through can go wrong later.
fn use_all(shard: &Shard) -> Vec<Entry> {
    let columns = shard.columns();
    let models: Vec<u32> = (0..shard.len() as u32).chain([NO_MODEL]).collect();
    let input = vec![1.5; models.len()];
    let inputs = vec![input.as_slice(); shard.features()];
    columns.decisions(&models, &inputs, &mut vec![0.0; models.len()]);
    let mut names = String::new();
    (0..shard.len())
        .map(|row| {
            shard.write_model_name(row, &mut names).unwrap();
            assert_eq!(shard.find(shard.series()[row]), Some(row));
            let _ = (shard.rows(row), shard.refused(row), shard.normal(row));
            shard.entry(row)
        })
        .collect()
}

fn numbers(n: usize) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL, n)
}

fn kernel() -> impl Strategy<Value = Kernel> {
    let gamma = 1e-6..1e6_f64;
    prop_oneof![
        gamma.clone().prop_map(|gamma| Kernel::Rbf { gamma }),
        Just(Kernel::Linear),
        (gamma.clone(), -5.0..5.0, any::<u32>()).prop_map(|(gamma, coef0, degree)| Kernel::Poly {
            gamma,
            coef0,
            degree
        }),
        (gamma, -5.0..5.0).prop_map(|(gamma, coef0)| Kernel::Sigmoid { gamma, coef0 }),
    ]
}

fn model(features: usize) -> impl Strategy<Value = Model> {
    (1..6_usize)
        .prop_flat_map(move |v| {
            let scale = prop::collection::vec(0.001..1000.0_f64, features);
            (numbers(features), scale, kernel(), numbers(v * features), numbers(v), prop::num::f64::NORMAL)
        })
        .prop_map(move |(mean, scale, kernel, support_vectors, dual_coef, rho)| Model {
            features,
            mean,
            scale,
            kernel,
            support_vectors,
            dual_coef,
            rho,
        })
}

fn entries(features: usize) -> impl Strategy<Value = Vec<Entry>> {
    let outcome = prop_oneof![4 => model(features).prop_map(Ok), 1 => ".{0,40}".prop_map(Err)];
    let normal = prop::option::of(prop::collection::vec((-1e9..0.0_f64, 0.0..1e9_f64), 0..4));
    let one = (outcome, normal, "[a-c]{1,3}", "\\PC{1,8}", prop::option::of(".{0,12}"), any::<u32>());
    prop::collection::btree_map(any::<u32>(), one, 0..24).prop_map(move |all| {
        all.into_iter()
            .map(|(series, (outcome, normal, device, sensor, name, rows))| Entry {
                series,
                model: name.unwrap_or_else(|| format!("model_{device}_{sensor}")),
                device,
                sensor,
                outcome,
                normal: normal.filter(|_| features == 1),
                rows,
            })
            .collect()
    })
}

/// Bits, so that zeros of both signs and the like count.
fn bits(entries: &[Entry]) -> String {
    let number = |v: &f64| format!("{:016x}", v.to_bits());
    let all = |v: &[f64]| v.iter().map(number).collect::<String>();
    entries
        .iter()
        .map(|e| {
            let model = e.outcome.as_ref().map(|m| {
                let numbers = [&m.mean, &m.scale, &m.support_vectors, &m.dual_coef].map(|v| all(v));
                format!("{:?} {numbers:?} {}", m.kernel, number(&m.rho))
            });
            format!(
                "{} {} {} {} {model:?} {:?} {}\n",
                e.series, e.device, e.sensor, e.model, e.normal, e.rows
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_is_what_is_read((f, all) in (1..5_usize).prop_flat_map(|f| (Just(f), entries(f)))) {
        let shard = Shard::open(pack(f, &all)).unwrap();
        prop_assert_eq!(shard.features(), f);
        prop_assert_eq!(shard.len(), all.len());
        prop_assert_eq!(bits(&use_all(&shard)), bits(&all));
        prop_assert!(shard.series().iter().copied().eq(all.iter().map(|e| e.series)));
    }

    #[test]
    fn changed_bytes_are_refused_or_are_a_shard(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        splice in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..64_usize)),
    ) {
        let mut bytes = sample().to_vec();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Some((from, to, len)) = splice {
            let piece: Vec<u8> = bytes[from.index(bytes.len())..].iter().take(len).copied().collect();
            let at = to.index(bytes.len());
            for (to, from) in bytes[at..].iter_mut().zip(piece) {
                *to = from;
            }
        }
        if let Ok(shard) = Shard::open(bytes.into()) {
            use_all(&shard);
        }
    }
}

/// A shard that has every column.
fn sample() -> Bytes {
    let poly = Model { kernel: Kernel::Poly { gamma: 0.1, coef0: 1.0, degree: 3 }, ..small(1.0) };
    let mut named = entry(4, Ok(poly));
    named.model = "another".into();
    pack(1, &[entry(1, Ok(small(0.5))), entry(2, Err("was refused".into())), named, entry(9, Ok(small(2.0)))])
}

#[test]
fn every_cut_is_refused() {
    let good = sample();
    for end in 0..good.len() {
        assert!(Shard::open(good.slice(..end)).is_err(), "the first {end} bytes");
        assert!(Shard::open(good.slice(good.len() - end..)).is_err(), "the last {end} bytes");
    }
    Shard::open(good).unwrap();
}

#[test]
fn every_changed_byte_is_refused_or_gives_a_shard() {
    let good = sample();
    let mut refused = 0;
    for at in 0..good.len() {
        for to in [0x00, 0x01, 0x7f, 0x80, 0xff, good[at] ^ 0x01, good[at] ^ 0x10, good[at] ^ 0x80] {
            let mut bytes = good.to_vec();
            bytes[at] = to;
            match Shard::open(bytes.into()) {
                Ok(shard) => drop(use_all(&shard)),
                Err(e) => {
                    assert!(!e.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1000, "{refused} changes were noticed");
}

#[test]
fn checks_are_read_again_and_hostile_ones_refused() {
    let mut builder = ChecksBuilder::new(2);
    assert!(builder.push(0, &[1.0, -0.0], 0.25) && builder.push(7, &[3.0, 4.0], -1.5));
    assert!(!builder.push(8, &[1.0], 0.0), "another number of features");
    let good = builder.finish().unwrap();
    let checks = Checks::open(good.clone()).unwrap();
    assert_eq!((checks.len(), checks.features(), checks.entries()), (2, 2, &[0, 7][..]));
    assert_eq!((checks.inputs(), checks.decisions()), (&[1.0, -0.0, 3.0, 4.0][..], &[0.25, -1.5][..]));
    assert!(Shard::open(good.clone()).is_err() && Checks::open(sample()).is_err());
    for at in 0..good.len() {
        assert!(Checks::open(good.slice(..at)).is_err());
        for bit in 0..8 {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1 << bit;
            if let Ok(checks) = Checks::open(bytes.into()) {
                assert_eq!(checks.inputs().len(), checks.len() * checks.features());
                assert_eq!(checks.decisions().len(), checks.entries().len());
            }
        }
    }
}

#[test]
fn what_a_shard_cannot_hold_is_refused_and_leaves_it_whole() {
    let mut builder = ShardBuilder::new(1, PATTERN);
    builder.push(&entry(5, Ok(small(1.0)))).unwrap();
    for series in [5, 4] {
        let e = builder.push(&entry(series, Ok(small(1.0)))).unwrap_err();
        assert!(matches!(e, PackError::Order { after: 5, .. }), "{e}");
    }
    let two = Model { features: 2, mean: vec![], scale: vec![], ..small(1.0) };
    let e = builder.push(&entry(6, Ok(two))).unwrap_err().to_string();
    assert!(e.contains("series 6") && e.contains("2 features"), "{e}");
    assert!(builder.push(&Entry { device: "x".repeat(MAX_NAME + 1), ..entry(6, Ok(small(1.0))) }).is_err());
    assert!(
        builder.push(&Entry { normal: Some(vec![(1.0, f64::NAN)]), ..entry(6, Ok(small(1.0))) }).is_err()
    );
    builder.push(&entry(6, Err("é".repeat(MAX_REASON)))).unwrap();
    let shard = Shard::open(builder.finish().unwrap()).unwrap();
    assert_eq!((shard.series(), shard.refused(0)), (&[5, 6][..], None));
    assert_eq!(shard.refused(1).map(str::len), Some(MAX_REASON));
    let e = ShardBuilder::new(1, "{device}{device}").finish().unwrap_err();
    assert!(e.to_string().contains("twice"), "{e}");
}

#[test]
fn a_newer_format_is_named_and_no_models_are_a_shard() {
    let empty = pack(3, &[]);
    let shard = Shard::open(empty.clone()).unwrap();
    assert_eq!((shard.len(), shard.features(), shard.columns().len()), (0, 3, 0));
    let mut newer = empty.to_vec();
    let key = b"fleetscore.pack";
    for at in 0..newer.len() - key.len() {
        // The value lies behind or before its key, as a string of one byte.
        if &newer[at..at + key.len()] == key {
            for digit in &mut newer[at.saturating_sub(32)..at + key.len() + 32] {
                if *digit == b'1' {
                    *digit = b'9';
                }
            }
        }
    }
    assert!(matches!(Shard::open(newer.into()), Err(PackError::Newer { found: 9, known: 1 })));
}

#[test]
fn a_mapped_shard_is_not_copied() {
    let all: Vec<Entry> = (0..1000).map(|i| entry(i, Ok(small(f64::from(i + 1))))).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &pack(1, &all)).unwrap();
    // SAFETY: the file is this test's own.
    let mapped = Bytes::from_owner(unsafe { memmap2::Mmap::map(file.as_file()) }.unwrap());
    let range = mapped.as_ptr_range();
    let shard = Shard::open(mapped.clone()).unwrap();
    let c = shard.columns();
    let of = |v: &[f64]| v.as_ptr().cast::<u8>();
    let (from, to) = shard.normal(3).unwrap();
    for at in [of(c.gamma), of(c.rho), of(c.mean), of(c.scale), of(c.dual_coef), of(c.support_vectors)] {
        assert!(range.contains(&at), "a column lies outside of the mapping");
        assert_eq!(at as usize % 64, 0, "a column is not aligned");
    }
    assert!(range.contains(&of(from)) && range.contains(&of(to)));
    assert!(range.contains(&c.offsets.as_ptr().cast()) && range.contains(&shard.series().as_ptr().cast()));
    assert!(range.contains(&shard.device(999).as_ptr()));
    drop(mapped);
    assert_eq!(use_all(&shard), all, "the shard holds the mapping");
}

#[test]
fn bytes_at_an_odd_address_are_copied_once() {
    let good = sample();
    let mut odd = vec![0; good.len() + 16];
    let start = (0..8).find(|i| (odd.as_ptr() as usize + i) % 8 == 3).unwrap();
    odd[start..start + good.len()].copy_from_slice(&good);
    let shard = Shard::open(Bytes::from(odd).slice(start..start + good.len())).unwrap();
    assert_eq!(use_all(&shard), use_all(&Shard::open(good).unwrap()));
}

#[test]
fn a_small_model_takes_less_than_150_bytes() {
    let one_a_device: Vec<Entry> = (0..65_536)
        .map(|i| {
            let device = format!("plant-7/pump-{i:07}");
            let e = entry(i, Ok(small(0.5)));
            Entry { model: format!("model_{device}_temp"), device, sensor: "temp".into(), ..e }
        })
        .collect();
    let ten_a_device: Vec<Entry> = (0..65_536)
        .map(|i| {
            let (device, sensor) = (format!("pump-{:06}", i / 10), format!("sensor-{}", i % 10));
            let e = entry(i, Ok(small(0.5)));
            Entry { model: format!("model_{device}_{sensor}"), device, sensor, ..e }
        })
        .collect();
    for (what, all, at_most) in [("one", one_a_device, 150.0), ("ten", ten_a_device, 125.0)] {
        let shard = Shard::open(pack(1, &all)).unwrap();
        let bytes = shard.memory() as f64 / shard.len() as f64;
        println!("two support vectors, {what} sensor(s) a device: {bytes:.1} bytes a model");
        assert!(bytes <= at_most, "{bytes} bytes a model");
    }
}

fn manifest() -> Manifest {
    let file = |name: &str, rows| SetFile::of(name.into(), rows, name.as_bytes());
    Manifest {
        format: SET_FORMAT,
        version: 3,
        origin: "import".into(),
        created_by: "a test".into(),
        created_at: "2026-01-01T00:00:00Z".into(),
        features: vec!["mean".into()],
        pattern: PATTERN.into(),
        models: 4,
        refused: 1,
        trained_on: None,
        training_rows: Some(12),
        parts: vec![
            Part { file: file("part-0", 3), series: (1, 5), checks: Some(file("checks-0", 6)) },
            Part { file: file("part-1", 2), series: (6, 7), checks: None },
        ],
    }
}

#[test]
fn a_manifest_that_does_not_fit_together_is_refused() {
    let good = manifest();
    let text = |m: &Manifest| serde_json::to_vec(m).unwrap();
    assert_eq!(Manifest::parse(&text(&good)).unwrap(), good);
    let refused = |change: &dyn Fn(&mut Manifest), named: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let e = Manifest::parse(&text(&bad)).unwrap_err().to_string();
        assert!(e.contains(named), "{named}: {e}");
    };
    refused(&|m| m.format = SET_FORMAT + 1, "newer");
    refused(&|m| m.format = SET_FORMAT - 1, "import or train again");
    let renamed = |name: &'static str| move |m: &mut Manifest| m.parts[1].file.name = name.into();
    for name in ["../secret", "", "part-0", ".hidden", "a/b"] {
        refused(&renamed(name), "a file is named");
    }
    refused(&|m| m.parts[1].series.0 = 5, "ascend");
    refused(&|m| m.models = u64::MAX, "rows");
    let good = text(&good);
    for at in 0..good.len() {
        let _ = Manifest::parse(&good[..at]);
        let mut bytes = good.clone();
        bytes[at] ^= 0x04;
        let _ = Manifest::parse(&bytes);
    }
    let file = SetFile::of("x".into(), 1, b"abc");
    file.verify(b"abc").unwrap();
    assert!(file.verify(b"abd").is_err() && file.verify(b"ab").is_err());
}
