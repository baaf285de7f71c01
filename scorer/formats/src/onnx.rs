//! One-class SVMs out of ONNX files, as `skl2onnx` writes them: the numbers are read from the graph, which is never run.
//!
//! The graph of `OneClassSVM` is a node `SVMRegressor`; a `StandardScaler` before it is a node `Scaler`, or `Sub` and
//! `Div` where the input is float64; several inputs are joined by `FeatureVectorizer` or `Concat`; `Cast`, `Sign` and
//! `Identity` surround them. Any other node is refused by name. The numbers of `SVMRegressor` are float32 whatever the
//! input is, and so the model's decisions are those of a rounded model.

mod graph;
mod wire;

use crate::numbers;
use fleetscore_kernel::{Kernel, Model};
use graph::{Graph, Node};
use wire::Numbers;

/// Why an ONNX file is refused. The texts complete the sentence "model_1_1.onnx …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file ends in the middle.
    #[error("is cut short: {wanted} more bytes are wanted at offset {at}, and {left} are left")]
    Truncated {
        /// Where the reading stood.
        at: usize,
        /// How many bytes are needed there.
        wanted: u64,
        /// How many there are in the message around it.
        left: usize,
    },
    /// It is no protocol buffer, or not one of a model.
    #[error("is not a well-formed ONNX file: {what} at offset {at}")]
    Malformed {
        /// What is wrong.
        what: String,
        /// Offset in bytes.
        at: usize,
    },
    /// It has a node that is not part of the models that can be imported.
    #[error("has the node `{op}` at offset {at}, {why}")]
    Node {
        /// Its operator, with the domain where that is not ONNX's own.
        op: String,
        /// Offset of the node.
        at: usize,
        /// Why it is refused.
        why: String,
    },
    /// The model's parts are wrong, or there are none.
    #[error("{0}")]
    Graph(String),
    /// An attribute is missing or wrong.
    #[error("`{attribute}` {what}")]
    Attribute {
        /// Operator and attribute.
        attribute: String,
        /// What is wrong with it.
        what: String,
    },
}

type Result<T> = std::result::Result<T, OnnxError>;

const ML: &str = "ai.onnx.ml";

/// The model in an ONNX file, and the names of its inputs where each feature has its own.
pub(crate) fn read(bytes: &[u8]) -> Result<(Model, Option<Vec<String>>)> {
    let mut graph = Graph::read(bytes)?;
    let svm = graph.the_svm()?;
    let mut model = machine(&graph.nodes[svm])?;
    let input = *graph.nodes[svm].inputs.first().ok_or_else(|| wrong("SVMRegressor", "has no input"))?;
    let (affine, names) = graph.scaling_before(svm, input, model.features)?;
    graph.only_labels_after(svm)?;
    graph.nothing_left()?;
    model.mean = affine.mean.unwrap_or_default();
    model.scale = affine.scale.unwrap_or_default();
    if let Some(names) = &names
        && names.len() != model.features
    {
        let what = format!("are {}, and the SVMRegressor takes {} features", names.len(), model.features);
        return Err(wrong("inputs", what));
    }
    if names.is_none()
        && let Some(width) = graph.width
        && width != model.features as i64
    {
        let what = format!("has {width} columns, and the SVMRegressor takes {} features", model.features);
        return Err(wrong("input", what));
    }
    model.validate().map_err(|e| OnnxError::Graph(format!("cannot be scored: {e}")))?;
    Ok((model, names))
}

fn wrong(attribute: impl Into<String>, what: impl Into<String>) -> OnnxError {
    OnnxError::Attribute { attribute: attribute.into(), what: what.into() }
}

/// What `SVMRegressor` says: Σᵢ coefficientsᵢ · k(x, support_vectorsᵢ) + rho (ONNX operators of `ai.onnx.ml`).
fn machine(node: &Node<'_>) -> Result<Model> {
    let missing = |name: &str| wrong(format!("SVMRegressor.{name}"), "is missing");
    let floats = |name: &str| node.floats(name)?.ok_or_else(|| missing(name));
    let count = node.integer("n_supports")?.unwrap_or(0);
    let dual_coef = floats("coefficients")?;
    if count <= 0 || usize::try_from(count) != Ok(dual_coef.len()) {
        let what = format!("is {count}, and there are {} coefficients", dual_coef.len());
        return Err(wrong("SVMRegressor.n_supports", what));
    }
    let support_vectors = floats("support_vectors")?;
    if support_vectors.len() == 0 || !support_vectors.len().is_multiple_of(dual_coef.len()) {
        let what =
            format!("has {} numbers, which are not rows for {count} support vectors", support_vectors.len());
        return Err(wrong("SVMRegressor.support_vectors", what));
    }
    let rho = floats("rho")?;
    if rho.len() != 1 {
        return Err(wrong("SVMRegressor.rho", "has not one value"));
    }
    let transform = node.text("post_transform")?.unwrap_or("NONE");
    if transform != "NONE" {
        let what = format!("is '{}': NONE is wanted", graph::shown(transform));
        return Err(wrong("SVMRegressor.post_transform", what));
    }
    Ok(Model {
        features: support_vectors.len() / dual_coef.len(),
        mean: vec![],
        scale: vec![],
        kernel: kernel(node)?,
        support_vectors: support_vectors.decoded()?,
        dual_coef: dual_coef.decoded()?,
        rho: -rho.decoded()?[0],
    })
}

fn kernel(node: &Node<'_>) -> Result<Kernel> {
    let params = || {
        if let Some(three) = node.floats("kernel_params")?.filter(|values| values.len() == 3)
            && let [gamma, coef0, degree] = three.decoded()?[..]
        {
            return Ok((gamma, coef0, degree));
        }
        Err(wrong("SVMRegressor.kernel_params", "has not the three values gamma, coef0 and degree"))
    };
    Ok(match node.text("kernel_type")?.unwrap_or("LINEAR") {
        "RBF" => Kernel::Rbf { gamma: params()?.0 },
        "LINEAR" => Kernel::Linear,
        "POLY" => {
            let (gamma, coef0, degree) = params()?;
            let degree = numbers::degree(degree)
                .map_err(|e| OnnxError::Graph(format!("has, in `SVMRegressor.kernel_params`: {e}")))?;
            Kernel::Poly { gamma, coef0, degree }
        }
        "SIGMOID" => {
            let (gamma, coef0, _) = params()?;
            Kernel::Sigmoid { gamma, coef0 }
        }
        other => {
            let what = format!("is '{}': RBF, LINEAR, POLY and SIGMOID are known", graph::shown(other));
            return Err(wrong("SVMRegressor.kernel_type", what));
        }
    })
}

/// (x − mean) / scale, put together from the graph's scalings, the one next to the SVM first.
struct Affine {
    features: usize,
    mean: Option<Vec<f64>>,
    scale: Option<Vec<f64>>,
}

impl Affine {
    fn new(features: usize) -> Self {
        Self { features, mean: None, scale: None }
    }

    /// One value for each feature: as many are there, or one for all.
    fn wide(&self, values: Numbers<'_>, of: impl Fn(f64) -> f64) -> Result<Vec<f64>> {
        let n = self.features;
        if values.len() != 1 && values.len() != n {
            let what = format!("have {} values, and the SVMRegressor takes {n} features", values.len());
            return Err(wrong("the constants of the scaling", what));
        }
        let mut wide = values.decoded()?;
        wide.iter_mut().for_each(|v| *v = of(*v));
        if wide.len() < n {
            wide.resize(n, wide[0]);
        }
        Ok(wide)
    }

    /// Before everything so far, `of` each of these is subtracted: ((x − v) − m)/s = (x − (v + m))/s.
    fn subtract_first(&mut self, values: Numbers<'_>, of: impl Fn(f64) -> f64) -> Result<()> {
        let wide = self.wide(values, of)?;
        match &mut self.mean {
            None => self.mean = Some(wide),
            Some(mean) => mean.iter_mut().zip(wide).for_each(|(m, v)| *m += v),
        }
        Ok(())
    }

    /// Before everything so far, x is divided by `of` each of these: (x/v − m)/s = (x − m·v)/(s·v).
    fn divide_first(&mut self, values: Numbers<'_>, of: impl Fn(f64) -> f64) -> Result<()> {
        let wide = self.wide(values, of)?;
        if let Some(mean) = &mut self.mean {
            mean.iter_mut().zip(&wide).for_each(|(m, v)| *m *= v);
        }
        match &mut self.scale {
            None => self.scale = Some(wide),
            Some(scale) => scale.iter_mut().zip(wide).for_each(|(s, v)| *s *= v),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
