#!/usr/bin/env bash
# Fuzzes one target (or all) for a number of executions, with a memory limit, on stable Rust.
#
#   fuzz/run.sh TARGET|all [RUNS]          TARGET: pickle joblib onnx json parquet_models pack checks manifest
#
# libFuzzer is linked by libfuzzer-sys; the coverage it is led by comes from LLVM's sancov pass, which stable rustc runs
# when told by name. New inputs are kept in fuzz/work/TARGET, and what crashes in fuzz/work/crashes.
set -euo pipefail
cd "$(dirname "$0")"
target=${1:?TARGET or all}
runs=${2:-100000}
if [ "$target" = all ]; then
    for target in pickle joblib onnx json parquet_models pack checks manifest; do "./run.sh" "$target" "$runs"; done
    exit
fi
host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, build scripts and procedural macros are built without these flags.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/fuzz}
cargo build -q --bin "$target" --target "$host"
mkdir -p "work/$target" work/crashes
seeds=("seeds/$target")
case $target in
    pickle | joblib | onnx | json | parquet_models) seeds=("../scorer/formats/tests/data") ;;
esac
exec "$CARGO_TARGET_DIR/$host/debug/$target" -runs="$runs" -rss_limit_mb=1024 -malloc_limit_mb=512 -max_len=8192 \
    -timeout=10 -print_final_stats=1 -artifact_prefix=work/crashes/ "work/$target" "${seeds[@]}"
