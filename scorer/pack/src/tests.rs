//! Packs written and read again.

use super::*;
#[test]
fn round_trip() {
    let mut b = ShardBuilder::new(1, "model_{device}_{sensor}");
    let model = fleetscore_kernel::Model {
        features: 1,
        mean: vec![1.0],
        scale: vec![2.0],
        kernel: fleetscore_kernel::Kernel::Rbf { gamma: 0.5 },
        support_vectors: vec![1.0, 2.0],
        dual_coef: vec![0.5, 0.5],
        rho: 0.1,
    };
    let e = Entry {
        series: 3,
        device: "a".into(),
        sensor: "b".into(),
        model: "model_a_b".into(),
        outcome: Ok(model),
        normal: Some(vec![(1.0, 2.0)]),
        rows: 0,
    };
    b.push(&e).unwrap();
    let r = Entry { series: 4, outcome: Err("bad".into()), normal: None, model: "x".into(), ..e.clone() };
    b.push(&r).unwrap();
    let s = Shard::open(b.finish().unwrap()).unwrap();
    assert_eq!(s.entry(0), e);
    assert_eq!(s.entry(1), r);
}
