//! What reading takes, by the process's own peak: one test, so that nothing else is in it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

/// The most memory the process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

fn field(key: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![key << 3 | 2];
    let mut length = body.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}

#[test]
fn a_constant_that_many_nodes_share_is_not_decoded_for_each() {
    let floats =
        |name: &str, values: &[u8]| field(5, &[field(1, name.as_bytes()), field(7, values)].concat());
    let one = 1f32.to_le_bytes();
    // Eight nodes that scale are read, each by the same eight million numbers; the model takes one feature.
    let mut graph = Vec::new();
    for i in 0..8_u8 {
        let node = [field(1, &[b'a' + i]), field(1, b"c"), field(2, &[b'b' + i]), field(4, b"Sub")].concat();
        graph.extend(field(1, &node));
    }
    let count = field(5, &[field(1, b"n_supports"), vec![3 << 3, 1]].concat());
    let machine = [
        [field(1, b"i"), field(2, b"y"), field(4, b"SVMRegressor"), field(7, b"ai.onnx.ml")].concat(),
        [count, floats("coefficients", &one), floats("support_vectors", &one), floats("rho", &one)].concat(),
    ];
    graph.extend(field(1, &machine.concat()));
    graph.extend(field(5, &[vec![2 << 3, 1], field(8, b"c"), field(9, &vec![0x3f; 32 << 20])].concat()));
    graph.extend(field(11, &field(1, b"a")));
    let file = [field(7, &graph), field(8, &field(1, b"")), field(8, &field(1, b"ai.onnx.ml"))].concat();
    let file = bytes::Bytes::from(file);
    drop(graph);
    let before = peak();
    let e = fleetscore_formats::open(file, "x.onnx", &Default::default()).err().expect("refused").to_string();
    assert!(e.contains("have 8388608 values, and the SVMRegressor takes 1 features"), "{e}");
    let grown = peak() - before;
    assert!(grown < 8 << 20, "{grown} bytes were taken");
}
