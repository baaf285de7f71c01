"""Reads published predictions as other programs do, and prints one line a row: pyarrow, DataFusion or plain CSV.

usage: read_published.py (pyarrow|datafusion|csv) FILE...
"""

import csv
import sys


def show(start, device, sensor, value, prediction, decision, status):
    def number(x):
        return "" if x is None else repr(float(x))

    print("|".join([str(start), device, sensor, number(value), "" if prediction is None else str(int(prediction)), number(decision), status]))


COLUMNS = ["window_start", "device", "sensor", "value", "prediction", "decision", "status"]


def micros(t):
    import datetime

    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (t - epoch) // datetime.timedelta(microseconds=1)


def main():
    how, files = sys.argv[1], sys.argv[2:]
    for file in files:
        if how == "pyarrow":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(file, columns=COLUMNS).to_pylist()
        elif how == "datafusion":
            import datafusion

            context = datafusion.SessionContext()
            context.register_parquet("p", file)
            rows = context.sql("SELECT " + ", ".join(COLUMNS) + " FROM p").to_pylist()
        else:
            import datetime

            with open(file, newline="") as f:
                reader = csv.DictReader(f)
                assert reader.fieldnames[:5] == ["TS", "Device", "Sensor", "Val", "Prediction"], reader.fieldnames
                for row in reader:
                    start = datetime.datetime.strptime(row["TS"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=datetime.timezone.utc)
                    cell = lambda name: None if row[name] == "" else row[name]
                    show(micros(start), row["Device"], row["Sensor"], cell("Val"), cell("Prediction"), cell("decision"), row["status"])
            continue
        for row in rows:
            show(micros(row["window_start"]), *[row[c] for c in COLUMNS[1:]])


main()
