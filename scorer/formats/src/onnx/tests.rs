//! Graphs written field by field: what no exporter writes.

use super::*;
use proptest::prelude::*;

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn field(number: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3 | 2, &mut out);
    varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

fn integer(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3, &mut out);
    varint(value, &mut out);
    out
}

fn packed(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(name: &str, values: &[f32]) -> Vec<u8> {
    [field(1, name.as_bytes()), field(7, &packed(values))].concat()
}

fn node(domain: &str, op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut body: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
    body.extend(field(2, output.as_bytes()));
    body.extend(field(4, op.as_bytes()));
    body.extend(field(7, domain.as_bytes()));
    body.extend(attributes.iter().flat_map(|a| field(5, a)));
    field(1, &body)
}

/// A linear machine of one support vector on `input`.
fn svm(input: &str, vector: &[f32]) -> Vec<u8> {
    let count = [field(1, b"n_supports"), integer(3, 1)].concat();
    let attributes = [
        count,
        [field(1, b"one_class"), integer(3, 1)].concat(),
        floats("coefficients", &[1.0]),
        floats("support_vectors", vector),
        floats("rho", &[-0.5]),
    ];
    node(ML, "SVMRegressor", &[input], "decision", &attributes)
}

fn constant(name: &str, values: &[f32]) -> Vec<u8> {
    field(5, &[integer(2, 1), field(8, name.as_bytes()), field(9, &packed(values))].concat())
}

fn input(name: &str) -> Vec<u8> {
    field(11, &field(1, name.as_bytes()))
}

fn file(graph: &[Vec<u8>]) -> Vec<u8> {
    let domains = ["", ML].map(|domain| field(8, &field(1, domain.as_bytes())));
    [field(7, &graph.concat()), domains.concat()].concat()
}

/// Nodes that scale by `c`, one after the other from `x` on, and the machine behind them.
fn chain(steps: usize, vector: &[f32]) -> Vec<Vec<u8>> {
    let names: Vec<String> = (0..=steps).map(|i| if i == 0 { "x".into() } else { format!("s{i}") }).collect();
    let mut graph: Vec<Vec<u8>> =
        (0..steps).map(|i| node("", ["Sub", "Div"][i % 2], &[&names[i], "c"], &names[i + 1], &[])).collect();
    graph.push(svm(&names[steps], vector));
    graph.push(input("x"));
    graph
}

fn why(graph: &[Vec<u8>]) -> String {
    read(&file(graph)).unwrap_err().to_string()
}

#[test]
fn scalings_are_put_together_in_order() {
    let mut graph = chain(3, &[1.0, 2.0]);
    graph.push(constant("c", &[2.0, 4.0]));
    let (model, names) = read(&file(&graph)).unwrap();
    assert_eq!(names, None);
    // ((x − 2)/2 − 2) = (x − 6)/2; ((x − 4)/4 − 4) = (x − 20)/4
    assert_eq!((model.mean, model.scale, model.rho), (vec![6.0, 20.0], vec![2.0, 4.0], 0.5));
    let mut graph = chain(2, &[1.0, 2.0]);
    graph.push(constant("c", &[2.0]));
    let (model, _) = read(&file(&graph)).unwrap();
    assert_eq!((model.mean, model.scale), (vec![2.0; 2], vec![2.0; 2]));
}

#[test]
fn a_constant_or_attribute_of_the_wrong_length_is_refused() {
    let mut graph = chain(2, &[1.0, 2.0]);
    graph.push(constant("c", &[2.0; 3]));
    assert!(why(&graph).contains("have 3 values, and the SVMRegressor takes 2 features"), "{}", why(&graph));
    let scaler = |offset: &[f32], scale: &[f32]| {
        let parts = [floats("offset", offset), floats("scale", scale)];
        vec![node(ML, "Scaler", &["x"], "s", &parts), svm("s", &[1.0, 2.0]), input("x")]
    };
    let (model, _) = read(&file(&scaler(&[1.0, 2.0], &[0.5]))).unwrap();
    assert_eq!((model.mean, model.scale), (vec![1.0, 2.0], vec![2.0, 2.0]));
    for graph in [scaler(&[1.0; 3], &[0.5]), scaler(&[1.0], &[0.5; 5]), scaler(&[], &[1.0])] {
        assert!(why(&graph).contains("values, and the SVMRegressor takes 2 features"), "{}", why(&graph));
    }
}

#[test]
fn what_no_export_has_so_many_of_is_refused() {
    let with = |steps: usize| {
        let mut graph = chain(steps, &[1.0]);
        graph.push(constant("c", &[2.0]));
        graph
    };
    read(&file(&with(8))).unwrap();
    assert!(why(&with(9)).contains("more than 8 nodes that scale"));
    assert!(why(&with(250)).contains("more than 64 nodes"));
    let mut constants = with(1);
    constants.extend((0..64).map(|i| constant(&i.to_string(), &[1.0])));
    assert!(why(&constants).contains("more than 64 constants"));
    let mut long = with(1);
    long.push(input(&"x".repeat(2000)));
    assert!(why(&long).contains("a name of 2000 bytes"));
    let join = vec!["x"; 4097];
    let joins = [node(ML, "FeatureVectorizer", &join[1..], "a", &[]), node("", "Concat", &join, "b", &[])];
    assert!(why(&joins[..1]).contains("no version") || why(&joins[..1]).contains("SVMRegressor"));
    assert!(why(&joins[1..]).contains("more than 4096 inputs of a node"));
    let twice = [joins[0].clone(), joins[0].clone()];
    assert!(why(&twice).contains("more than 4352 inputs of nodes"));
}

#[test]
fn each_input_is_joined_once() {
    let widths = |n: usize| [field(1, b"inputdimensions"), field(8, &vec![1; n])].concat();
    let graph = |joined: &[&str]| {
        let join = node(ML, "FeatureVectorizer", joined, "s", &[widths(joined.len())]);
        vec![join, svm("s", &[1.0, 2.0]), input("a"), input("b")]
    };
    assert_eq!(read(&file(&graph(&["b", "a"]))).unwrap().1, Some(vec!["b".to_owned(), "a".to_owned()]));
    for wrong in [&["a", "a"][..], &["a"], &["a", "b", "a"]] {
        assert!(why(&graph(wrong)).contains("does not join each input once"), "{wrong:?}");
    }
    let mut twice = graph(&["a", "b"]);
    twice.push(input("a"));
    assert!(why(&twice).contains("a second input `a`"));
}

#[test]
fn thousands_of_long_names_are_told_apart_by_hash() {
    // Compared with one another, these were 16 million comparisons of 1000 bytes.
    let names: Vec<String> = (0..4096).map(|i| format!("{}{i:04}", "n".repeat(1000))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let join = node("", "Concat", &names, "s", &[[field(1, b"axis"), integer(3, 1)].concat()]);
    let mut graph = vec![join, svm("s", &vec![1.0; 4096])];
    graph.extend(names.iter().map(|name| input(name)));
    assert_eq!(read(&file(&graph)).unwrap().1.unwrap(), names);
}

proptest! {
    #[test]
    fn any_chain_scales_as_its_nodes_say(steps in 0usize..8, c in 0.5f32..4.0, x in -9.0f64..9.0, y in -9.0f64..9.0) {
        let mut graph = chain(steps, &[1.5, -0.5]);
        graph.push(constant("c", &[c, 2.0]));
        let (model, _) = read(&file(&graph)).unwrap();
        let scaled = |mut x: f64, c: f64| {
            (0..steps).for_each(|i| x = if i % 2 == 0 { x - c } else { x / c });
            x
        };
        let wanted = 1.5 * scaled(x, f64::from(c)) - 0.5 * scaled(y, 2.0) - 0.5;
        prop_assert!((model.decision(&[x, y]) - wanted).abs() < 1e-9 * (1.0 + wanted.abs()));
    }
}
