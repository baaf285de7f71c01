"""Makes a job in the shape of the reference's by a seed: 15 pickled models and 17,768 readings in one CSV file.

    python make.py FOLDER SEED

The models are Pipeline(StandardScaler, OneClassSVM(rbf, gamma 0.01, nu 1e-4)) fitted to 250–299 rows; the readings of
three devices with five sensors each fill about two of five slots of a grid of 5 s.
"""

import csv
import os
import pickle
import random
import sys
from datetime import datetime, timedelta

from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

ROWS = 17_768
FILLED = 0.39


def main(folder, seed):
    rng = random.Random(seed)
    os.makedirs(os.path.join(folder, "models"))
    series = []
    for device in range(1, 4):
        for sensor in range(1, 6):
            level = rng.uniform(5, 100)
            spread = level * rng.uniform(0.02, 0.1)
            value = lambda level=level, spread=spread: round(rng.gauss(level, spread), 2)
            rows = [[value()] for _ in range(rng.randint(250, 299))]
            model = Pipeline([("scale", StandardScaler()), ("svm", OneClassSVM(kernel="rbf", gamma=0.01, nu=1e-4))])
            with open(os.path.join(folder, "models", f"model_{device}_{sensor}"), "wb") as f:
                pickle.dump(model.fit(rows), f, protocol=3)
            series.append((device, sensor, value))
    readings, slot = [], datetime(2018, 8, 28, 23, 0, 5)
    while len(readings) < ROWS:
        ts = slot.strftime("%Y-%m-%d %H:%M:%S.000")
        readings += [(ts, d, s, value()) for d, s, value in series if rng.random() < FILLED]
        slot += timedelta(seconds=5)
    with open(os.path.join(folder, "sensor_data.csv"), "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["TS", "Device", "Sensor", "Value"])
        out.writerows(readings[:ROWS])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
