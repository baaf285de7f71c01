//! Fitted scikit-learn models, versions 0.19 and later, as the kernel's numbers.

use super::PickleError;
use super::numpy::{self, Array, kind_of};
use super::opcodes::{Global, Tree, Value};
use fleetscore_kernel::{Kernel, Model};

/// Most attributes of an estimator, which has about thirty.
const MAX_ATTRIBUTES: usize = 256;

/// Most steps of a pipeline that are looked at: two can be imported.
const MAX_STEPS: usize = 16;

type Result<T> = std::result::Result<T, PickleError>;

/// The model a pickle is of: a `OneClassSVM`, or a `Pipeline` of at most a `StandardScaler` and one.
///
/// # Errors
/// [`PickleError::Attribute`] names the class and attribute that is missing or wrong.
pub fn model(tree: &Tree<'_>) -> Result<Model> {
    let root = Estimator::of(tree, tree.root, "the pickle")?;
    match root.class {
        Global::OneClassSvm => one_class(&root),
        Global::Pipeline => pipeline(&root),
        _ => Err(PickleError::attribute(
            "the pickle",
            format!("is a {}: a OneClassSVM, or a Pipeline that ends with one, is wanted", root.name),
        )),
    }
}

/// What the columns were called that the model was fitted on (`feature_names_in_`, since scikit-learn 1.0); of a
/// `Pipeline`, its first estimator knows.
pub fn feature_names(tree: &Tree<'_>) -> Option<Vec<String>> {
    let root = Estimator::of(tree, tree.root, "the pickle").ok()?;
    let named = |e: &Estimator<'_, '_>| numpy::texts(tree, e.get("feature_names_in_")?);
    if root.class != Global::Pipeline {
        return named(&root);
    }
    let steps = tree.sequence(root.get("steps")?)?.iter().take(MAX_STEPS);
    let estimators = steps.filter_map(|step| match tree.sequence(*step) {
        Some([_, step]) => Estimator::of(tree, *step, "a step").ok(),
        _ => None,
    });
    estimators.map(|e| named(&e)).find(Option::is_some).flatten()
}

fn pipeline(root: &Estimator<'_, '_>) -> Result<Model> {
    let tree = root.tree;
    let wrong = |what: String| PickleError::attribute("Pipeline.steps", what);
    let steps = root.required("steps")?;
    let steps = tree.sequence(steps).ok_or_else(|| wrong("is not a list".into()))?;
    let mut estimators = Vec::new();
    for (i, step) in steps.iter().enumerate().take(MAX_STEPS) {
        let Some([_, step]) = tree.sequence(*step) else {
            return Err(wrong(format!("[{i}] is not a pair of a name and an estimator")));
        };
        if *step != Value::None && tree.text(*step) != Some("passthrough") {
            estimators.push(Estimator::of(tree, *step, &format!("Pipeline.steps[{i}]"))?);
        }
    }
    let classes: Vec<Global> = estimators.iter().map(|e| e.class).collect();
    match classes[..] {
        [Global::OneClassSvm] => one_class(&estimators[0]),
        [Global::StandardScaler, Global::OneClassSvm] => {
            let mut model = one_class(&estimators[1])?;
            (model.mean, model.scale) = scaler(&estimators[0], model.features)?;
            checked(model)
        }
        _ => {
            let names: Vec<&str> = estimators.iter().map(|e| e.name).collect();
            Err(wrong(format!(
                "is [{}]: a StandardScaler (or nothing) and a OneClassSVM can be imported",
                names.join(", ")
            )))
        }
    }
}

/// Mean and scale of a `StandardScaler`; empty where it does not centre or scale.
fn scaler(scaler: &Estimator<'_, '_>, features: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let column = |names: &[&str]| -> Result<Vec<f64>> {
        let (name, value) = scaler.first_of(names)?;
        let array = scaler.array(name, value)?;
        if array.shape.len() > 1 || array.data.len() != features {
            let what =
                format!("has the shape {:?}, and the OneClassSVM takes {features} features", array.shape);
            return Err(scaler.wrong(name, what));
        }
        Ok(array.data)
    };
    let mean = if scaler.flag("with_mean", true)? { column(&["mean_"])? } else { vec![] };
    // Before 0.17 the scale was called std_.
    let scale = if scaler.flag("with_std", true)? { column(&["scale_", "std_"])? } else { vec![] };
    Ok((mean, scale))
}

fn one_class(svm: &Estimator<'_, '_>) -> Result<Model> {
    if svm.flag("_sparse", false)? {
        return Err(svm.wrong("_sparse", "is True: only models fitted on dense data can be imported"));
    }
    if let Some(impl_) = svm.get("_impl")
        && svm.tree.text(impl_) != Some("one_class")
    {
        return Err(svm.wrong("_impl", format!("is {}, not 'one_class'", kind_of(svm.tree, impl_))));
    }
    let vectors = svm.array("support_vectors_", svm.required("support_vectors_")?)?;
    let [count, features] = vectors.shape[..] else {
        return Err(
            svm.wrong("support_vectors_", format!("has the shape {:?}, not two dimensions", vectors.shape))
        );
    };
    // What scikit-learn's decision_function itself uses has the underscore in front; for one class both are the same.
    let (name, value) = svm.first_of(&["_dual_coef_", "dual_coef_"])?;
    let dual_coef = svm.array(name, value)?;
    if dual_coef.shape != [1, count] {
        let what = format!("has the shape {:?}, and there are {count} support vectors", dual_coef.shape);
        return Err(svm.wrong(name, what));
    }
    let (name, value) = svm.first_of(&["_intercept_", "intercept_"])?;
    let intercept = svm.array(name, value)?;
    let [intercept] = intercept.data[..] else {
        return Err(svm.wrong(name, format!("has {} values instead of one", intercept.data.len())));
    };
    checked(Model {
        features,
        mean: vec![],
        scale: vec![],
        kernel: kernel(svm, features)?,
        support_vectors: vectors.data,
        dual_coef: dual_coef.data,
        rho: -intercept,
    })
}

fn kernel(svm: &Estimator<'_, '_>, features: usize) -> Result<Kernel> {
    let value = svm.required("kernel")?;
    let name = svm.tree.text(value).unwrap_or_default();
    Ok(match name {
        "rbf" => Kernel::Rbf { gamma: gamma(svm, features)? },
        "linear" => Kernel::Linear,
        "poly" => {
            Kernel::Poly { gamma: gamma(svm, features)?, coef0: svm.number("coef0")?, degree: degree(svm)? }
        }
        "sigmoid" => Kernel::Sigmoid { gamma: gamma(svm, features)?, coef0: svm.number("coef0")? },
        _ => {
            let what = format!("is {}: rbf, linear, poly and sigmoid are known", kind_of(svm.tree, value));
            return Err(svm.wrong("kernel", what));
        }
    })
}

fn degree(svm: &Estimator<'_, '_>) -> Result<u32> {
    let degree = svm.number("degree")?;
    if degree.fract() == 0.0 && (0.0..=1000.0).contains(&degree) {
        return Ok(degree as u32);
    }
    Err(svm.wrong("degree", format!("is {degree}, not a whole number up to 1000")))
}

/// γ as fitted: `_gamma` holds what 'scale' and 'auto' came to.
fn gamma(svm: &Estimator<'_, '_>, features: usize) -> Result<f64> {
    if svm.get("_gamma").is_some() {
        return svm.number("_gamma");
    }
    let value = svm.required("gamma")?;
    match svm.tree.text(value) {
        Some("auto") => Ok(1.0 / features as f64),
        Some(_) => Err(svm.wrong("_gamma", "is missing, and gamma is no number: is the model fitted?")),
        None => svm.number("gamma"),
    }
}

fn checked(model: Model) -> Result<Model> {
    model.validate().map_err(|e| PickleError::attribute("the model", format!("cannot be scored: {e}")))?;
    Ok(model)
}

/// An estimator's class and attributes.
struct Estimator<'t, 'a> {
    tree: &'t Tree<'a>,
    class: Global,
    name: &'static str,
    state: Value<'a>,
}

impl<'t, 'a> Estimator<'t, 'a> {
    fn of(tree: &'t Tree<'a>, value: Value<'a>, place: &str) -> Result<Self> {
        let known = |class: Global| match class {
            Global::OneClassSvm => Some("OneClassSVM"),
            Global::Pipeline => Some("Pipeline"),
            Global::StandardScaler => Some("StandardScaler"),
            _ => None,
        };
        let object = tree.object(value).and_then(|o| Some((o, known(o.class)?)));
        let Some((object, name)) = object else {
            let what = format!("is {}, not an estimator that can be imported", kind_of(tree, value));
            return Err(PickleError::attribute(place, what));
        };
        match object.state {
            Some(state) if tree.pairs(state).is_some_and(|n| n > MAX_ATTRIBUTES) => {
                Err(PickleError::attribute(name, format!("has more than {MAX_ATTRIBUTES} attributes")))
            }
            Some(state) if tree.pairs(state).is_some() => Ok(Self { tree, class: object.class, name, state }),
            _ => Err(PickleError::attribute(name, "has no attributes")),
        }
    }

    fn wrong(&self, attribute: &str, what: impl Into<String>) -> PickleError {
        PickleError::attribute(format!("{}.{attribute}", self.name), what)
    }

    fn get(&self, attribute: &str) -> Option<Value<'a>> {
        self.tree.entry(self.state, attribute)
    }

    fn required(&self, attribute: &str) -> Result<Value<'a>> {
        self.get(attribute).ok_or_else(|| self.wrong(attribute, "is missing: is the model fitted?"))
    }

    /// The first attribute of these that is there and not None.
    fn first_of<'n>(&self, attributes: &[&'n str]) -> Result<(&'n str, Value<'a>)> {
        let present = |a: &'n str| Some((a, self.get(a).filter(|v| *v != Value::None)?));
        attributes.iter().copied().find_map(present).ok_or_else(|| {
            // The name that people know.
            let public = attributes.iter().copied().find(|a| !a.starts_with('_')).unwrap_or_default();
            self.wrong(public, "is missing: is the model fitted?")
        })
    }

    fn flag(&self, attribute: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(attribute) else { return Ok(default) };
        match numpy::number(self.tree, value) {
            Ok(v) => Ok(v != 0.0),
            Err(_) => Err(self.wrong(attribute, format!("is {}, not a boolean", kind_of(self.tree, value)))),
        }
    }

    fn number(&self, attribute: &str) -> Result<f64> {
        numpy::number(self.tree, self.required(attribute)?).map_err(|e| self.wrong(attribute, e))
    }

    fn array(&self, attribute: &str, value: Value<'a>) -> Result<Array> {
        let array = numpy::array(self.tree, value).map_err(|e| self.wrong(attribute, e))?;
        if let Some(at) = array.data.iter().position(|v| !v.is_finite()) {
            return Err(self.wrong(attribute, format!("has {} at position {at}", array.data[at])));
        }
        Ok(array)
    }
}
