"""Fits scikit-learn's OneClassSVM to the data sets in a folder and writes what came out.

usage: peer.py FOLDER REPEATS

Reads sets.json, and for each set <n>.rows and <n>.points: little-endian f64, row after row. Writes <n>.found: seconds of
the fastest fit, the number of support vectors, then the decisions of the rows and of the points. Prints its versions.
"""

import json
import pathlib
import platform
import sys
import time

import numpy
import sklearn
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM


def main():
    folder, repeats = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    for n, one in enumerate(json.loads((folder / "sets.json").read_text())):
        read = lambda end: numpy.fromfile(folder / f"{n}.{end}", dtype="<f8").reshape(-1, one["features"])
        rows, points = read("rows"), read("points")
        best = float("inf")
        for _ in range(repeats):
            begun = time.perf_counter()
            scaler = StandardScaler()
            model = OneClassSVM(kernel="rbf", gamma="scale", nu=one["nu"], tol=one["tolerance"])
            model.fit(scaler.fit_transform(rows))
            best = min(best, time.perf_counter() - begun)
        decide = lambda x: model.decision_function(scaler.transform(x))
        found = [[best, len(model.support_)], decide(rows), decide(points)]
        numpy.concatenate(found).astype("<f8").tofile(folder / f"{n}.found")
    print(f"scikit-learn {sklearn.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}")


main()
