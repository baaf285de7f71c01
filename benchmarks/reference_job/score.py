"""Scores one model's rows: what the reference starts a process for, once per model.

    python score.py MODEL CSV OUT

MODEL is a pickle named model_{device}_{sensor} of a Pipeline(StandardScaler, OneClassSVM); CSV has the columns
TS,Device,Sensor,Value; OUT gets TS,Device,Sensor,Val,Prediction with 1 for an anomaly.
"""

import os
import pickle
import sys
import warnings

import pandas as pd


def load(path):
    """Also reads pickles of scikit-learn 0.19, whose modules and attributes had other names."""
    import sklearn.preprocessing._data
    import sklearn.svm._classes

    sys.modules.setdefault("sklearn.svm.classes", sklearn.svm._classes)
    sys.modules.setdefault("sklearn.preprocessing.data", sklearn.preprocessing._data)
    with warnings.catch_warnings(), open(path, "rb") as f:
        warnings.simplefilter("ignore")
        model = pickle.load(f)
    svm = model.steps[-1][1]
    if not hasattr(svm, "_n_support"):
        import numpy as np

        # `n_support_` of such a pickle is memory that nobody wrote: the vectors are counted.
        vectors = len(svm.support_vectors_)
        svm.__dict__.pop("n_support_", None)
        svm._n_support = np.array([vectors, vectors], dtype=np.int32)
        svm._probA, svm._probB = np.empty(0), np.empty(0)
        svm.offset_ = -svm._intercept_
    return model


def main(model_path, csv_path, out_path):
    _, device, sensor = os.path.basename(model_path).split("_")
    data = pd.read_csv(csv_path, dtype={"Device": str, "Sensor": str})
    data = data[(data["Device"] == device) & (data["Sensor"] == sensor)]
    model = load(model_path)
    predictions = model.predict(data["Value"].to_numpy().reshape(-1, 1))
    pd.DataFrame({
        "TS": data["TS"],
        "Device": data["Device"],
        "Sensor": data["Sensor"],
        "Val": data["Value"],
        "Prediction": (predictions < 0).astype(int),
    }).to_csv(out_path, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:4])
