//! The allow list: which globals of a pickle are read.

/// The globals that are read, each one a name that does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    /// `sklearn.pipeline.Pipeline`
    Pipeline,
    /// `sklearn.preprocessing.….StandardScaler`
    StandardScaler,
    /// `sklearn.svm.….OneClassSVM`
    OneClassSvm,
    /// `numpy.ndarray`
    NdArray,
    /// `numpy.dtype`
    Dtype,
    /// `numpy.….multiarray._reconstruct`: an empty array of a class.
    Reconstruct,
    /// `numpy.….numeric._frombuffer`: an array over bytes (protocol 5).
    FromBuffer,
    /// `numpy.….multiarray.scalar`
    Scalar,
    /// `copyreg._reconstructor`: an object of a class (protocols 0 and 1).
    Reconstructor,
    /// `builtins.object`
    Object,
    /// `collections.OrderedDict`
    OrderedDict,
    /// `_codecs.encode`: how protocols 0 to 2 write bytes.
    Encode,
    /// `builtins.bytes`: how protocols 0 to 2 write empty bytes.
    Bytes,
    /// `joblib.numpy_pickle.NumpyArrayWrapper`: an array whose bytes follow in the file.
    JoblibArray,
}

impl Global {
    /// The global of this name, if it is on the list: names of all scikit-learn versions from 0.19, NumPy 1 and 2.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("sklearn.pipeline", "Pipeline") => Self::Pipeline,
            (
                "sklearn.preprocessing" | "sklearn.preprocessing.data" | "sklearn.preprocessing._data",
                "StandardScaler",
            ) => Self::StandardScaler,
            ("sklearn.svm" | "sklearn.svm.classes" | "sklearn.svm._classes", "OneClassSVM") => {
                Self::OneClassSvm
            }
            ("numpy", "ndarray") => Self::NdArray,
            ("numpy", "dtype") => Self::Dtype,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Self::Reconstruct,
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Self::FromBuffer,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Self::Scalar,
            ("copyreg" | "copy_reg", "_reconstructor") => Self::Reconstructor,
            ("builtins" | "__builtin__", "object") => Self::Object,
            ("builtins" | "__builtin__", "bytes") => Self::Bytes,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("_codecs", "encode") => Self::Encode,
            ("joblib.numpy_pickle" | "sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper") => {
                Self::JoblibArray
            }
            _ => return None,
        })
    }
}
