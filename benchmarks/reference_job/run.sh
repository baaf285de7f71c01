#!/usr/bin/env bash
# The reference's own job, CSV in and CSV out: one Python process for each model, two at a time, against one process of
# ours. Flags go to the benchmark: --repeats 5 --seed 2 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build reference_job
venv bench-reference "$root/benchmarks/reference_job/requirements.txt"
exec "$bins/reference_job" --python "$python" --scripts "$root/benchmarks/reference_job" \
    --reference "$root/../shared/reference" "$@"
