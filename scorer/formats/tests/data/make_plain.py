"""Makes the compressed joblib, ONNX, JSON and Parquet fixtures of this folder, and what scikit-learn says of them.

    python -m venv v && v/bin/pip install scikit-learn==1.9.0 skl2onnx onnxruntime joblib pandas pyarrow
    v/bin/python make_plain.py

JSON and Parquet are written by the snippets of docs/models.md, which are taken from there as they stand. `plain.json`
holds for each file rows of features with scikit-learn's decisions and, for ONNX, those of onnxruntime.
"""

import gzip
import io
import json
import pathlib
import re
import zlib

import joblib
import numpy as np
import onnxruntime
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, SVR, OneClassSVM

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(11)
ONE = rng.normal(12.0, 1.5, (60, 1))
TWO = np.column_stack([rng.normal(5.0, 0.5, 60), rng.uniform(-3, 3, 60)])
KERNELS = {
    "rbf": dict(gamma=0.3, nu=0.1),
    "linear": dict(kernel="linear", nu=0.1),
    "poly": dict(kernel="poly", degree=2, coef0=0.5, nu=0.1),
    "sigmoid": dict(kernel="sigmoid", gamma=0.1, coef0=0.1, nu=0.1),
}


def rows(data):
    low, high = data.min(axis=0), data.max(axis=0)
    return np.vstack([np.linspace(low - (high - low), high + (high - low), 11), data[:3]]).astype(np.float32).astype(float)


def scaled(data, scaler=None, **svm):
    return make_pipeline(scaler or StandardScaler(), OneClassSVM(**svm)).fit(data)


expected = {}


def note(name, content, model, data, **more):
    (HERE / name).write_bytes(content)
    x = rows(data)
    expected[name] = {"rows": x.tolist(), "decisions": model.decision_function(x).tolist(), **more}


def onnx(name, model, data, types=None, suffix=None):
    types = types or [("X", FloatTensorType([None, data.shape[1]]))]
    content = to_onnx(model, initial_types=types).SerializeToString()
    x, more = rows(data), {}
    try:
        session = onnxruntime.InferenceSession(content)
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
        inputs = session.get_inputs()
        if inputs[0].type != "tensor(int64)":
            columns = [x] if len(inputs) == 1 else [x[:, [i]] for i in range(x.shape[1])]
            feed = {i.name: c.astype(kinds[i.type]) for i, c in zip(inputs, columns)}
            more["onnxruntime"] = session.run(None, feed)[1].ravel().astype(float).tolist()
    except Exception as e:  # onnxruntime itself has no SVMRegressor of doubles
        print(name, "is not run by onnxruntime:", str(e)[:120])
    note(name, content, model, data, **more)


# --- joblib, compressed ---------------------------------------------------------------------------------------------
model = scaled(ONE, gamma=0.3, nu=0.1)
for name, compress in [("zlib", ("zlib", 3)), ("gzip", ("gzip", 9)), ("bz2", ("bz2", 3)), ("xz", ("xz", 3))]:
    file = io.BytesIO()
    joblib.dump(model, file, compress=compress)
    note(f"compressed.{name}.joblib", file.getvalue(), model, ONE)
# Fitted on a DataFrame: the names of its columns are an array of objects.
named = scaled(pd.DataFrame(TWO, columns=["mean", "stddev"]), nu=0.1)
for suffix, dump in [("joblib", joblib.dump), ("pkl", pd.to_pickle)]:
    file = io.BytesIO()
    dump(named, file)
    (HERE / f"named.{suffix}").write_bytes(file.getvalue())
    x = rows(TWO)
    decisions = named.decision_function(pd.DataFrame(x, columns=["mean", "stddev"])).tolist()
    expected[f"named.{suffix}"] = {"rows": x.tolist(), "decisions": decisions}

# --- ONNX -------------------------------------------------------------------------------------------------------------
for kind, svm in KERNELS.items():
    onnx(f"{kind}.onnx", scaled(TWO, **svm), TWO)
onnx("bare.onnx", OneClassSVM(nu=0.1).fit(ONE), ONE)
onnx("no_mean.onnx", scaled(TWO, StandardScaler(with_mean=False), nu=0.1), TWO)
onnx("no_std.onnx", scaled(TWO, StandardScaler(with_std=False), nu=0.1), TWO)
onnx("double.onnx", scaled(TWO, nu=0.1), TWO, [("X", DoubleTensorType([None, 2]))])
onnx("bare_int.onnx", OneClassSVM(nu=0.1).fit(ONE), ONE, [("X", Int64TensorType([None, 1]))])
columns = [("mean", FloatTensorType([None, 1])), ("stddev", FloatTensorType([None, 1]))]
onnx("columns.onnx", scaled(TWO, nu=0.1), TWO, columns)
onnx("refused_pca.onnx", make_pipeline(PCA(1), OneClassSVM(nu=0.1)).fit(TWO), TWO)
onnx("min_max.onnx", scaled(TWO, MinMaxScaler(), nu=0.1), TWO)
svc = SVC(probability=False).fit(TWO, TWO[:, 1] > 0)
(HERE / "refused_svc.onnx").write_bytes(to_onnx(svc, TWO[:1].astype(np.float32)).SerializeToString())
svr = make_pipeline(StandardScaler(), SVR()).fit(TWO, TWO[:, 0])
(HERE / "refused_svr.onnx").write_bytes(to_onnx(svr, TWO[:1].astype(np.float32)).SerializeToString())

# --- plain numbers ------------------------------------------------------------------------------------------------------
docs = (HERE / "../../../../docs/models.md").read_text()
for snippet in re.findall(r"```python\n(.*?)```", docs, re.S):
    models = {
        ("d1", "one"): (scaled(ONE, gamma=0.3, nu=0.1), ONE),
        ("d1", "bare"): (OneClassSVM(nu=0.1).fit(ONE), ONE),
        ("d1", "no_std"): (scaled(ONE, StandardScaler(with_std=False), nu=0.1), ONE),
        ("d1", "no_mean"): (scaled(ONE, StandardScaler(with_mean=False), nu=0.1), ONE),
        **{("d2", kind): (scaled(TWO, **svm), TWO) for kind, svm in KERNELS.items()},
    }
    space = {"models": models}
    exec(compile(snippet.replace('"models.', f'"{HERE}/models.'), "docs/models.md", "exec"), space)

(HERE / "plain.json").write_text(
    "{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in sorted(expected.items())) + "\n}\n"
)
