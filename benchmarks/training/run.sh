#!/usr/bin/env bash
# Fits by linfa-svm, as `fleetscore models train` makes them, beside scikit-learn's on the same 200 data sets: decisions
# and labels compared, fits a second, one core each. Flags go to the benchmark: --repeats 5 --seed 2 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
export FLEETSCORE_BIN=${FLEETSCORE_BIN:-unused} # the benchmark calls the library
build training
venv bench-training "$root/benchmarks/training/requirements.txt"
exec "$bins/training" --python "$python" --peer "$root/benchmarks/training/peer.py" "$@"
