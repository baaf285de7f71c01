#!/usr/bin/env bash
# Fuzzes one target (or all) for a number of executions, with a memory limit, on stable Rust.
#
#   fuzz/run.sh TARGET|all [RUNS]          TARGET: pickle joblib onnx json parquet_models pack checks manifest model
#
# Ends with a table: executions, executions a second, edges covered of those there are, inputs kept, most memory. A crash,
# an input that takes 10 s, an allocation of 512 MB or a process of 1 GB ends it with another status than 0; what did it
# is kept in fuzz/work/crashes, and new inputs in fuzz/work/TARGET.
#
# libFuzzer is linked by libfuzzer-sys; the coverage it is led by comes from LLVM's sancov pass, which stable rustc runs
# when told by name.
set -euo pipefail
cd "$(dirname "$0")"
known=(pickle joblib onnx json parquet_models pack checks manifest model)
target=${1:?TARGET or all}
runs=${2:-100000}
[ "$target" = all ] && targets=("${known[@]}") || targets=("$target")

host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, build scripts and procedural macros are built without these flags.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/fuzz}
cargo build -q "${targets[@]/#/--bin=}" --target "$host"

fuzz() {
    local target=$1 log=work/$1.log data=../scorer/formats/tests/data seeds=()
    mkdir -p "work/$target" work/crashes
    # Those of its own format: what another one takes of the time is another target's.
    case $target in
        pickle) seeds=("$data"/*.pkl) ;;
        joblib) seeds=("$data"/*.joblib "$data"/*.pkl) ;;
        onnx) seeds=("$data"/*.onnx) ;;
        json) seeds=("$data"/*.json*) ;;
        parquet_models) seeds=("$data"/*.parquet "$data"/damaged/*.parquet) ;;
        *) seeds=("seeds/$target"/*) ;;
    esac
    (IFS=, && printf '%s' "${seeds[*]}") >"work/$target.seeds"
    if ! "$CARGO_TARGET_DIR/$host/debug/$target" -runs="$runs" -rss_limit_mb=1024 -malloc_limit_mb=512 -max_len=65536 \
        -timeout=10 -print_final_stats=1 -artifact_prefix=work/crashes/ -seed_inputs="@work/$target.seeds" "work/$target" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        printf '%s: stopped; see fuzz/%s\n' "$target" "$log" >&2
        return 1
    fi
    local stat='s/^stat::\([a-z_]*\): *\([0-9]*\)$/\1 \2/p'
    local done edges
    done=$(grep -aE '^#[0-9]+[[:space:]]+DONE' "$log")
    edges=$(sed -n 's/.*Loaded 1 PC tables (\([0-9]*\) PCs).*/\1/p' "$log")
    sed -n "$stat" "$log" | awk -v t="$target" -v edges="$edges" -v covered="$(sed 's/.* cov: \([0-9]*\).*/\1/' <<<"$done")" \
        -v kept="$(sed 's/.* corp: \([0-9]*\).*/\1/' <<<"$done")" '
        { s[$1] = $2 }
        END { printf "| %s | %d | %d | %d of %d | %d | %d |\n", t, s["number_of_executed_units"],
              s["average_exec_per_sec"], covered, edges, kept, s["peak_rss_mb"] }'
}

echo "| target | executions | a second | edges covered | inputs kept | most memory, MB |"
echo "| --- | ---: | ---: | ---: | ---: | ---: |"
failed=0
for target in "${targets[@]}"; do fuzz "$target" || failed=1; done
exit $failed
