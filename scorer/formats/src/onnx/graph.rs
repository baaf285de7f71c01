//! The graph of an ONNX model: its nodes, constants and inputs, and the path through them.
//!
//! Field numbers are those of `onnx.proto` (onnx/onnx).

use super::wire::{Field, Message, Numbers, Value};
use super::{Affine, ML, OnnxError, Result, wrong};
use std::collections::HashSet;

/// Most nodes of a graph, and most constants: an export has about six.
const MAX_NODES: usize = 64;
/// Most nodes that scale: an export has two. Each may take the same constant.
const MAX_SCALINGS: usize = 8;
/// Most attributes of a node: `SVMRegressor` has nine.
const MAX_ATTRIBUTES: usize = 64;
/// Most inputs, of a node and of the graph: one for each feature.
const MAX_NAMES: usize = fleetscore_kernel::MAX_FEATURES;
/// Most inputs of all nodes together: one node may join all features, the others have one or two.
const MAX_INPUTS: usize = MAX_NAMES + 4 * MAX_NODES;
/// Most domains of operators: two are known.
const MAX_DOMAINS: usize = 64;
/// Most outputs of a node: those we know have one.
const MAX_OUTPUTS: usize = 4;
/// Longest name, in bytes: names are compared with one another.
const MAX_NAME: usize = 1024;

/// A node, its attributes unread.
pub(super) struct Node<'a> {
    op: &'a str,
    domain: &'a str,
    pub inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
    attributes: Vec<(&'a str, Message<'a>)>,
    at: usize,
    /// Whether it was found to be part of the model.
    seen: bool,
}

/// What is used of a graph.
pub(super) struct Graph<'a> {
    pub nodes: Vec<Node<'a>>,
    constants: Vec<(&'a str, Message<'a>)>,
    /// In the order of the file; a set of them as well, since there may be thousands.
    inputs: Vec<&'a str>,
    known: HashSet<&'a str>,
    /// Columns of the one input, where it says so.
    pub width: Option<i64>,
}

fn push<T>(to: &mut Vec<T>, item: T, limit: usize, what: &str, at: usize) -> Result<()> {
    if to.len() == limit {
        return Err(many(limit, what, at));
    }
    to.push(item);
    Ok(())
}

fn many(limit: usize, what: &str, at: usize) -> OnnxError {
    OnnxError::Malformed { what: format!("more than {limit} {what}"), at }
}

impl<'a> Graph<'a> {
    /// The graph of a `ModelProto`.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let (mut body, mut domains) = (None, Vec::new());
        for field in (Message { bytes, at: 0 }).fields() {
            let field = field?;
            match field.number {
                7 if body.is_some() => {
                    return Err(OnnxError::Malformed { what: "a second graph".into(), at: field.at });
                }
                7 => body = Some(field.message()?),
                8 => {
                    push(&mut domains, domain(named(field.message()?, 1)?), MAX_DOMAINS, "domains", field.at)?
                }
                // A function could stand for any operator.
                25 => {
                    return Err(OnnxError::Graph("defines functions of its own, which are not read".into()));
                }
                _ => {}
            }
        }
        let body = body.ok_or(OnnxError::Malformed { what: "there is no graph".into(), at: 0 })?;
        let mut graph =
            Self { nodes: vec![], constants: vec![], inputs: vec![], known: HashSet::new(), width: None };
        let mut infos = Vec::new();
        let mut inputs = 0;
        for field in body.fields() {
            let field = field?;
            match field.number {
                1 => {
                    let node = Node::read(field.message()?)?;
                    inputs += node.inputs.len();
                    if inputs > MAX_INPUTS {
                        return Err(many(MAX_INPUTS, "inputs of nodes", field.at));
                    }
                    push(&mut graph.nodes, node, MAX_NODES, "nodes", field.at)?;
                }
                5 => {
                    let tensor = field.message()?;
                    push(
                        &mut graph.constants,
                        (named(tensor, 8)?, tensor),
                        MAX_NODES,
                        "constants",
                        field.at,
                    )?;
                }
                11 => push(&mut infos, field.message()?, MAX_NAMES, "inputs", field.at)?,
                _ => {}
            }
        }
        // They stand behind the graph: without them, the file is cut short.
        if let Some(node) = graph.nodes.iter().find(|n| !domains.contains(&n.domain)) {
            return Err(node.refused("and imports no version of its operators: is the file complete?"));
        }
        let constants: HashSet<&str> = graph.constants.iter().map(|(name, _)| *name).collect();
        for info in infos {
            let name = named(info, 1)?;
            // Before version 4 constants were inputs too.
            if constants.contains(name) {
                continue;
            }
            if !graph.known.insert(name) {
                return Err(info.malformed(format!("a second input `{}`", shown(name))));
            }
            graph.inputs.push(name);
            graph.width = columns(info)?;
        }
        if graph.inputs.len() != 1 {
            graph.width = None;
        }
        Ok(graph)
    }

    /// The index of the one node that scores.
    pub(super) fn the_svm(&mut self) -> Result<usize> {
        let is_svm = |n: &Node<'_>| n.domain == ML && n.op == "SVMRegressor";
        let mut found = (0..self.nodes.len()).filter(|i| is_svm(&self.nodes[*i]));
        match (found.next(), found.next()) {
            (Some(svm), None) => {
                self.nodes[svm].seen = true;
                Ok(svm)
            }
            (Some(_), Some(_)) => Err(OnnxError::Graph("has more than one node `SVMRegressor`".into())),
            _ => {
                let ops: Vec<String> = self.nodes.iter().take(8).map(Node::shown).collect();
                Err(OnnxError::Graph(format!(
                    "has no node `SVMRegressor`, as exports of a OneClassSVM have, but [{}]",
                    ops.join(", ")
                )))
            }
        }
    }

    /// What happens to the features before they reach the SVM's input `name`, and their names where each has an input of
    /// its own.
    pub(super) fn scaling_before(
        &mut self,
        svm: usize,
        mut name: &'a str,
        features: usize,
    ) -> Result<(Affine, Option<Vec<String>>)> {
        let mut affine = Affine::new(features);
        let mut scalings = 0;
        let mut at = self.nodes[svm].at;
        let names = loop {
            if self.known.contains(name) {
                if self.inputs.len() > 1 {
                    return Err(OnnxError::Graph(format!(
                        "has {} inputs, and only `{}` is used",
                        self.inputs.len(),
                        shown(name)
                    )));
                }
                break None;
            }
            let Some(node) = self.nodes.iter_mut().find(|n| n.outputs.contains(&name)) else {
                let what = format!("the input `{}` comes from nowhere", shown(name));
                return Err(OnnxError::Malformed { what, at });
            };
            if node.seen {
                return Err(OnnxError::Malformed { what: "nodes in a circle".into(), at: node.at });
            }
            node.seen = true;
            at = node.at;
            if matches!((node.domain, node.op), (ML, "FeatureVectorizer") | ("", "Concat")) {
                break Some(node.joined(&self.inputs, &self.known)?);
            }
            let scales;
            (name, scales) = node.before(&self.constants, &mut affine)?;
            scalings += usize::from(scales);
            if scalings > MAX_SCALINGS {
                return Err(many(MAX_SCALINGS, "nodes that scale", at));
            }
        };
        Ok((affine, names))
    }

    /// Marks what makes labels of the decisions; anything else that uses them is refused, and so is a regression, whose
    /// graph is the same but for the signs that are taken of a one-class machine's decisions.
    pub(super) fn only_labels_after(&mut self, svm: usize) -> Result<()> {
        let mut open = self.nodes[svm].outputs.clone();
        let mut one_class = self.nodes[svm].integer("one_class")? == Some(1);
        while let Some(name) = open.pop() {
            for node in self.nodes.iter_mut().filter(|n| !n.seen && n.inputs.contains(&name)) {
                if !(node.domain.is_empty() && matches!(node.op, "Cast" | "Identity" | "Sign")) {
                    return Err(node.refused("behind the SVM, which changes its decisions"));
                }
                node.seen = true;
                one_class |= node.op == "Sign";
                open.extend(&node.outputs);
            }
        }
        match one_class {
            true => Ok(()),
            false => Err(OnnxError::Graph(
                "takes no `Sign` of what its `SVMRegressor` says, as exports of a OneClassSVM do: it is a regression".into(),
            )),
        }
    }

    /// Every node must have been found on the way.
    pub(super) fn nothing_left(&self) -> Result<()> {
        match self.nodes.iter().find(|n| !n.seen) {
            Some(node) => Err(node.refused("which is not on the way from the input to the decision")),
            None => Ok(()),
        }
    }
}

impl<'a> Node<'a> {
    fn read(message: Message<'a>) -> Result<Self> {
        let mut node = Self {
            op: "",
            domain: "",
            inputs: vec![],
            outputs: vec![],
            attributes: vec![],
            at: message.at,
            seen: false,
        };
        for field in message.fields() {
            let field = field?;
            match field.number {
                1 => push(&mut node.inputs, name_in(field)?, MAX_NAMES, "inputs of a node", field.at)?,
                2 => push(&mut node.outputs, name_in(field)?, MAX_OUTPUTS, "outputs of a node", field.at)?,
                4 => node.op = name_in(field)?,
                5 => {
                    let body = field.message()?;
                    let attribute = (named(body, 1)?, body);
                    push(&mut node.attributes, attribute, MAX_ATTRIBUTES, "attributes", field.at)?;
                }
                7 => node.domain = domain(name_in(field)?),
                _ => {}
            }
        }
        Ok(node)
    }

    fn shown(&self) -> String {
        if self.domain.is_empty() || self.domain == ML {
            return shown(self.op);
        }
        format!("{}.{}", shown(self.domain), shown(self.op))
    }

    fn refused(&self, why: &str) -> OnnxError {
        OnnxError::Node { op: self.shown(), at: self.at, why: why.into() }
    }

    fn one_input(&self) -> Result<&'a str> {
        match self.inputs[..] {
            [input] => Ok(input),
            _ => Err(self.refused("which has not one input")),
        }
    }

    /// Its input where it stands on the way to the SVM, and whether it scales, which is put before what is done behind it.
    fn before(&self, constants: &[(&'a str, Message<'a>)], affine: &mut Affine) -> Result<(&'a str, bool)> {
        match (self.domain, self.op) {
            ("", "Identity") => Ok((self.one_input()?, false)),
            ("", "Cast") => {
                // FLOAT or DOUBLE: everything else would round.
                if !matches!(self.integer("to")?, Some(1 | 11)) {
                    return Err(self.refused("which makes whole numbers of the features"));
                }
                Ok((self.one_input()?, false))
            }
            (ML, "Scaler") => {
                let part = |name: &str| {
                    self.floats(name)?.ok_or_else(|| wrong(format!("Scaler.{name}"), "is missing"))
                };
                // (x − offset) · scale, the last first.
                let (offset, scale) = (part("offset")?, part("scale")?);
                affine.divide_first(scale, f64::recip)?;
                affine.subtract_first(offset, |v| v)?;
                Ok((self.one_input()?, true))
            }
            ("", "Sub" | "Add" | "Mul" | "Div") => {
                let (input, values) = self.with_constant(constants)?;
                match self.op {
                    "Sub" => affine.subtract_first(values, |v| v),
                    "Add" => affine.subtract_first(values, |v| -v),
                    "Mul" => affine.divide_first(values, f64::recip),
                    _ => affine.divide_first(values, |v| v),
                }?;
                Ok((input, true))
            }
            _ => Err(self.refused("before the SVM: only scaling can be imported")),
        }
    }

    /// Its input that is computed, and the values of the one that is constant.
    fn with_constant(&self, constants: &[(&'a str, Message<'a>)]) -> Result<(&'a str, Numbers<'a>)> {
        let constant = |name: &str| constants.iter().find(|(n, _)| *n == name).map(|(_, t)| *t);
        let [a, b] = self.inputs[..] else { return Err(self.refused("which has not two inputs")) };
        if let Some(tensor) = constant(b) {
            return Ok((a, tensor_values(tensor)?));
        }
        match constant(a).filter(|_| matches!(self.op, "Add" | "Mul")) {
            Some(tensor) => Ok((b, tensor_values(tensor)?)),
            None => Err(self.refused("which does not scale by a constant")),
        }
    }

    /// The names of the graph's inputs that it joins into one row, a column each.
    fn joined(&self, inputs: &[&'a str], known: &HashSet<&'a str>) -> Result<Vec<String>> {
        if let Some(strange) = self.inputs.iter().find(|i| !known.contains(*i)) {
            let why = format!("which joins `{}`, not an input of the graph", shown(strange));
            return Err(self.refused(&why));
        }
        let once: HashSet<&str> = self.inputs.iter().copied().collect();
        if self.inputs.len() != inputs.len() || once.len() != inputs.len() {
            return Err(self.refused("which does not join each input once"));
        }
        if self.op == "FeatureVectorizer" {
            let widths = self.integers("inputdimensions")?;
            if widths.len() != self.inputs.len() || widths.iter().any(|w| *w != 1) {
                return Err(self.refused("which joins inputs of several columns"));
            }
        } else if !matches!(self.integer("axis")?, Some(1 | -1)) {
            return Err(self.refused("which does not join columns"));
        }
        Ok(self.inputs.iter().map(|i| (*i).to_owned()).collect())
    }

    fn attribute(&self, name: &str) -> Result<Option<Message<'a>>> {
        let mut found = self.attributes.iter().filter(|(n, _)| *n == name);
        let first = found.next().map(|(_, body)| *body);
        if found.next().is_some() {
            return Err(wrong(format!("{}.{name}", self.shown()), "is given twice"));
        }
        Ok(first)
    }

    /// Numbers of an attribute that is a list of floats, counted and not yet decoded.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Numbers<'a>>> {
        let Some(body) = self.attribute(name)? else { return Ok(None) };
        Numbers::count(body, 7, 0).map(Some)
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let Some(body) = self.attribute(name)? else { return Ok(vec![]) };
        let mut values = Vec::new();
        for field in body.fields() {
            let field = field?;
            if field.number == 8 {
                field.integers(&mut values, MAX_NAMES)?;
            }
        }
        Ok(values)
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>> {
        let Some(body) = self.attribute(name)? else { return Ok(None) };
        let mut value = None;
        for field in body.fields() {
            let field = field?;
            if field.number == 3 {
                value = Some(field.integer()?);
            }
        }
        Ok(value)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(body) = self.attribute(name)? else { return Ok(None) };
        let mut value = None;
        for field in body.fields() {
            let field = field?;
            if field.number == 4 {
                value = Some(field.text()?);
            }
        }
        Ok(value)
    }
}

/// A domain of operators; ONNX's own has two names.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The text in this field of a message; empty where there is none.
fn named<'a>(message: Message<'a>, number: u64) -> Result<&'a str> {
    let mut name = "";
    for field in message.fields() {
        let field = field?;
        if field.number == number {
            name = name_in(field)?;
        }
    }
    Ok(name)
}

/// A text that is a name, and so not as long as a file.
fn name_in(field: Field<'_>) -> Result<&str> {
    let message = field.message()?;
    if message.bytes.len() > MAX_NAME {
        return Err(message.malformed(format!("a name of {} bytes", message.bytes.len())));
    }
    message.text()
}

/// The second dimension of an input's shape, where it is a number.
fn columns(info: Message<'_>) -> Result<Option<i64>> {
    // ValueInfoProto.type → TypeProto.tensor_type → Tensor.shape → TensorShapeProto.dim[1].dim_value
    let mut message = info;
    for number in [2, 1, 2] {
        match last(message, number)? {
            Some(next) => message = next,
            None => return Ok(None),
        }
    }
    let mut dims = 0;
    for field in message.fields() {
        let field = field?;
        if field.number == 1 {
            dims += 1;
            if dims == 2 {
                for part in field.message()?.fields() {
                    let part = part?;
                    if let (1, Value::Varint(v)) = (part.number, part.value) {
                        return Ok(i64::try_from(v).ok().filter(|v| *v > 0));
                    }
                }
            }
        }
    }
    Ok(None)
}

fn last<'a>(message: Message<'a>, number: u64) -> Result<Option<Message<'a>>> {
    let mut found = None;
    for field in message.fields() {
        let field = field?;
        if field.number == number {
            found = Some(field.message()?);
        }
    }
    Ok(found)
}

/// The values of a constant of type FLOAT or DOUBLE, counted and not yet decoded.
fn tensor_values(tensor: Message<'_>) -> Result<Numbers<'_>> {
    let (mut kind, mut raw) = (0, None);
    for field in tensor.fields() {
        let field = field?;
        match field.number {
            2 => kind = field.integer()?,
            9 => raw = Some(field.message()?),
            13 => return Err(tensor.malformed("a constant outside the file")),
            _ => {}
        }
    }
    let size = match kind {
        1 => 4,
        11 => 8,
        _ => return Err(tensor.malformed(format!("a constant of the type {kind}, not float32 or float64"))),
    };
    let listed = Numbers::count(tensor, 4, 10)?;
    match raw {
        None => Ok(listed),
        Some(raw) if listed.len() > 0 || !raw.bytes.len().is_multiple_of(size) => {
            Err(raw.malformed("a constant of a strange size"))
        }
        Some(raw) => Ok(Numbers::raw(raw, size)),
    }
}

/// A name as it may stand in a message: short, without control characters.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}
