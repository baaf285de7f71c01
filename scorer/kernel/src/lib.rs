//! The decision function of one-class support vector machines, over rows of features.

/// A kernel function k(x, v) of scikit-learn's `OneClassSVM`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kernel {
    /// exp(−γ·‖x − v‖²)
    Rbf {
        /// γ
        gamma: f64,
    },
    /// x·v
    Linear,
    /// (γ·x·v + c)^degree
    Poly {
        /// γ
        gamma: f64,
        /// c
        coef0: f64,
        /// The exponent.
        degree: u32,
    },
    /// tanh(γ·x·v + c)
    Sigmoid {
        /// γ
        gamma: f64,
        /// c
        coef0: f64,
    },
}

/// A one-class support vector machine, with the scaling of its inputs.
///
/// decision(x) = Σᵢ coefᵢ · k((x − mean) / scale, svᵢ) − ρ; normal only if it is > 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Number of features, at least 1.
    pub features: usize,
    /// Subtracted from each feature; empty = nothing.
    pub mean: Vec<f64>,
    /// Divides each feature after that; empty = nothing.
    pub scale: Vec<f64>,
    /// The kernel.
    pub kernel: Kernel,
    /// Support vectors, row after row: `dual_coef.len() × features`.
    pub support_vectors: Vec<f64>,
    /// One coefficient for each support vector.
    pub dual_coef: Vec<f64>,
    /// ρ = −intercept.
    pub rho: f64,
}
