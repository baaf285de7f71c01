#!/usr/bin/env bash
# Several worker processes on one PostgreSQL. `faults` kills and stops them at random while 200 intervals of 20,000 series
# come in, and checks every row; `scale` has 1, 4, 0 and 2 of them score large models, and watches idle ones. Flags go to
# the benchmark: faults --intervals 50 --faults 30 --seed 7; scale --stages 1,2 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build workers
postgres
if [ $# -eq 0 ]; then "$bins/workers" faults && exec "$bins/workers" scale; fi
exec "$bins/workers" "$@"
