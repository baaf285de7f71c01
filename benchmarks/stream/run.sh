#!/usr/bin/env bash
# From messages to windows, stage by stage:
#
#   benchmarks/stream/run.sh decode    JSON to Arrow columns on one core, beside serde_json
#   benchmarks/stream/run.sh panes     JSON to panes on one core, without a broker and a database
#
# Flags go to the benchmark: --series 10000,1000000 --packed 1,100 --readings 5000000 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
if [ -z "${FLEETSCORE_BENCH_BINS:-}" ]; then
    "${CARGO:-cargo}" build --release -p fleetscore-benchmark-stream >&2
    bins=${CARGO_TARGET_DIR:-$root/target}/release
else
    bins=$FLEETSCORE_BENCH_BINS
fi
exec "$bins/stream" "$@"
