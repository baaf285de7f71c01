"""The same models and rows through scikit-learn and onnxruntime, one core each.

`peers.py FOLDER REPETITIONS`: for each CASE.json there (vectors, features, rows, gamma, rho) with CASE.vectors, CASE.coefs
and CASE.rows (little-endian f64), writes CASE.sklearn and CASE.onnx (decisions as f64) and times.json (processor seconds
of each repetition).
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import json
import pathlib
import sys
import time

import numpy as np
import onnxruntime
import sklearn
from skl2onnx import to_onnx
from sklearn.svm import OneClassSVM


def estimator(case, vectors, coefs):
    """A fitted OneClassSVM with these numbers: fitted to anything, then given them."""
    svm = OneClassSVM(kernel="rbf", gamma=case["gamma"]).fit(vectors)
    svm.support_ = np.arange(len(coefs), dtype=np.int32)
    svm.support_vectors_ = np.ascontiguousarray(vectors)
    svm._n_support = np.array([len(coefs), 0], dtype=np.int32)
    svm.dual_coef_ = svm._dual_coef_ = coefs.reshape(1, -1).copy()
    svm.intercept_ = svm._intercept_ = np.array([-case["rho"]])
    svm.offset_ = np.array([case["rho"]])
    svm._gamma = case["gamma"]
    return svm


def timed(function, repetitions):
    result, seconds = function(), []
    for _ in range(repetitions):
        start = time.thread_time()
        result = function()
        seconds.append(time.thread_time() - start)
    return np.asarray(result, dtype="<f8").ravel(), seconds


def main(folder, repetitions):
    times = {"versions": {"scikit-learn": sklearn.__version__, "onnxruntime": onnxruntime.__version__}, "cases": {}}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    for path in sorted(folder.glob("*.json")):
        name, case = path.stem, json.loads(path.read_text())
        read = lambda what, shape: np.fromfile(folder / f"{name}.{what}", dtype="<f8").reshape(shape)
        coefs = read("coefs", -1)
        vectors, rows = read("vectors", (-1, case["features"])), read("rows", (-1, case["features"]))
        svm = estimator(case, vectors, coefs)
        decisions, sklearn_seconds = timed(lambda: svm.decision_function(rows), repetitions)
        decisions.tofile(folder / f"{name}.sklearn")
        graph = to_onnx(svm, rows[:1].astype(np.float32), target_opset=17)
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        # It computes in f32; converting the rows is not counted.
        narrow = {session.get_inputs()[0].name: rows.astype(np.float32)}
        decisions, onnx_seconds = timed(lambda: session.run(["scores"], narrow)[0], repetitions)
        decisions.tofile(folder / f"{name}.onnx")
        times["cases"][name] = {"sklearn": sklearn_seconds, "onnx": onnx_seconds}
    (folder / "times.json.part").write_text(json.dumps(times))
    os.rename(folder / "times.json.part", folder / "times.peers")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
