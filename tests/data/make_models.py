"""Makes the scikit-learn models the end-to-end tests import where the reference's are not at hand, and their numbers.

    pip install scikit-learn==1.5.2 && python make_models.py

One model for each series of tests/harness/data.rs: trained on values around the series' level.
"""

import json
import pickle
import random

from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

SERIES = [("press-1", "temp", 20.0, 2.0), ("press-1", "load", 7.5, 0.8), ("press-1", "rpm", 150.0, 15.0),
          ("press-2", "temp", 25.0, 3.0), ("press-2", "load", 6.0, 0.5), ("press_3", "rpm", 90.0, 8.0)]

numbers = []
for i, (device, sensor, level, spread) in enumerate(SERIES):
    rng = random.Random(i)
    rows = [[rng.gauss(level, spread)] for _ in range(200)]
    svm = OneClassSVM(kernel="rbf", gamma=0.5, nu=0.02, tol=1e-6)
    model = Pipeline([("scaler", StandardScaler()), ("svm", svm)]).fit(rows)
    with open(f"models/model_{device}_{sensor}", "wb") as f:
        pickle.dump(model, f, protocol=2 + i % 4)
    scaler = model.named_steps["scaler"]
    numbers.append({
        "device": device, "sensor": sensor, "level": level, "spread": spread,
        "mean": float(scaler.mean_[0]), "scale": float(scaler.scale_[0]), "gamma": 0.5,
        "vectors": [float(v[0]) for v in svm.support_vectors_],
        "coefficients": [float(c) for c in svm.dual_coef_[0]],
        "rho": float(-svm.intercept_[0]),
    })
with open("models.json", "w") as f:
    json.dump(numbers, f, indent=1)
