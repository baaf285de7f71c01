"""Makes the pickles in this folder, and what scikit-learn itself says of them.

    python -m venv v && v/bin/pip install "scikit-learn==1.2.2" "numpy<2" joblib && v/bin/python make.py
    (the same with scikit-learn 1.5.2 and 1.9.1 with numpy 2)

Each run adds its own files `<version>_<kind>.<pkl|joblib>` and replaces its own entries of `expected.json`: rows of
features and their decision values, printed with as many digits as they need.
"""

import io
import json
import pathlib
import pickle
import sys
import types

import joblib
import numpy as np
import sklearn
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

HERE = pathlib.Path(__file__).parent
VERSION = ".".join(sklearn.__version__.split(".")[:2])
rng = np.random.default_rng(7)
ONE = rng.normal(12.0, 1.5, (60, 1))
TWO = np.column_stack([rng.normal(5.0, 0.5, 60), rng.uniform(-3, 3, 60)])


def rows(data):
    low, high = data.min(axis=0), data.max(axis=0)
    spread = np.linspace(low - (high - low), high + (high - low), 23)
    return np.vstack([spread, data[:5], data.mean(axis=0)])


def renamed(model, protocol):
    """As scikit-learn 0.19 to 0.21 named the modules."""
    names = {StandardScaler: "sklearn.preprocessing.data", OneClassSVM: "sklearn.svm.classes"}
    before = {cls: cls.__module__ for cls in names}
    try:
        for cls, module in names.items():
            sys.modules[module] = types.ModuleType(module)
            setattr(sys.modules[module], cls.__name__, cls)
            cls.__module__ = module
        return pickle.dumps(model, protocol)
    finally:
        for cls, module in before.items():
            cls.__module__ = module


def scaled(**svm):
    return Pipeline([("scaler", StandardScaler()), ("classifier", OneClassSVM(**svm))])


def in_fortran_order(model, protocol):
    """Column after column: scikit-learn itself cannot score such a model, but writes it where X was laid out so."""
    svm = model[-1]
    before = svm.support_vectors_
    svm.support_vectors_ = np.asfortranarray(before)
    content = pickle.dumps(model, protocol)
    svm.support_vectors_ = before
    return content


rbf = scaled(kernel="rbf", gamma=0.01, nu=0.05).fit(ONE)
models = {f"rbf_p{p}": (rbf, ONE, pickle.dumps(rbf, p)) for p in range(6)}
models["old_names_p3"] = (rbf, ONE, renamed(rbf, 3))
bare = OneClassSVM(gamma="scale", nu=0.1).fit(ONE)
models["bare_scale_p4"] = (bare, ONE, pickle.dumps(bare, 4))
for kind, svm in {
    "two_rbf": dict(gamma="auto", nu=0.1),
    "two_linear": dict(kernel="linear", nu=0.1),
    "two_poly": dict(kernel="poly", degree=3, coef0=0.5, nu=0.1),
    "two_sigmoid": dict(kernel="sigmoid", coef0=0.1, nu=0.1),
}.items():
    m = scaled(**svm).fit(TWO)
    models[f"{kind}_p5"] = (m, TWO, pickle.dumps(m, 5))
fortran = scaled(nu=0.1).fit(TWO)
models["fortran_p2"] = (fortran, TWO, in_fortran_order(fortran, 2))
models["fortran_p5"] = (fortran, TWO, in_fortran_order(fortran, 5))
centred = make_pipeline(StandardScaler(with_std=False), OneClassSVM(nu=0.1)).fit(TWO)
models["no_std_p4"] = (centred, TWO, pickle.dumps(centred, 4))
passed = Pipeline([("none", "passthrough"), ("svm", OneClassSVM(nu=0.1))]).fit(TWO)
models["passthrough_p4"] = (passed, TWO, pickle.dumps(passed, 4))
file = io.BytesIO()
joblib.dump(rbf, file)
models["rbf.joblib"] = (rbf, ONE, file.getvalue())

expected_file = HERE / "expected.json"
expected = json.loads(expected_file.read_text()) if expected_file.exists() else {}
keep = set(sys.argv[1:]) or set(models)
for kind, (model, data, content) in models.items():
    if kind not in keep:
        continue
    name = f"{VERSION}_{kind}" if "." in kind else f"{VERSION}_{kind}.pkl"
    (HERE / name).write_bytes(content)
    x = rows(data)
    expected[name] = {"rows": x.tolist(), "decisions": model.decision_function(x).tolist()}
expected_file.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in sorted(expected.items())) + "\n}\n")
