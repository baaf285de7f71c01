#!/usr/bin/env bash
# Fuzzes one target (or several) for a number of executions, with a memory limit, on stable Rust.
#
#   fuzz/run.sh TARGET|all|smoke [RUNS]    TARGET: readings replay config http pickle joblib onnx json pack checks manifest
#                                                  model parquet_models
#
# `all` is each but parquet_models, which does not end (README.md says why).
#
# Ends with a table: executions, executions a second, edges covered of those there are (and of those in our own code),
# inputs kept, most memory. A crash, an input that takes 10 s, an allocation of 512 MB or a process of 1 GB ends it with
# another status than 0; what did it is kept in fuzz/work/crashes, and new inputs in fuzz/work/TARGET.
#
# `smoke` is what `make test` runs: the same targets, from the seeds alone and with one
# seed of chance, so that a failure comes again; nothing is kept. It takes as long as it takes (some ten seconds for 2,000
# inputs of each): a target that has executed fewer inputs than it was told fails, as it has shown nothing.
#
# libFuzzer is linked by libfuzzer-sys; the coverage it is led by comes from LLVM's sancov pass, which stable rustc runs
# when told by name.
set -euo pipefail
cd "$(dirname "$0")"
sound=(readings replay config http pickle joblib onnx json pack checks manifest model)
target=${1:?TARGET, all or smoke}
runs=${2:-100000}
case $target in
    all | smoke) targets=("${sound[@]}") ;;
    *) targets=("$target") ;;
esac

host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, build scripts and procedural macros are built without these flags.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
export RUSTC_WRAPPER=$PWD/rustc.sh
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-${CARGO_TARGET_DIR:-$PWD/../target}/fuzz}
cargo build -q "${targets[@]/#/--bin=}" --target "$host"

seeds_of() {
    local data=../scorer/formats/tests/data
    # Those of its own format: what another one takes of the time is another target's.
    case $1 in
        pickle) printf '%s\n' "$data"/*.pkl ;;
        joblib) printf '%s\n' "$data"/*.joblib "$data"/*.pkl ;;
        onnx) printf '%s\n' "$data"/*.onnx ;;
        json) printf '%s\n' "$data"/*.json* ;;
        parquet_models) printf '%s\n' "$data"/*.parquet "$data"/damaged/*.parquet ;;
        *) printf '%s\n' "seeds/$1"/* ;;
    esac
}

fuzz() {
    local target=$1 log=work/$1.log kept=work/$1 binary=$CARGO_TARGET_DIR/$host/debug/$1
    local more=(-runs="$runs" -rss_limit_mb=1024 -malloc_limit_mb=512 -max_len=65536 -timeout=10)
    mkdir -p work/crashes
    if [ "$mode" = smoke ]; then
        kept=$(mktemp -d)
        more+=(-seed=1 -timeout=120) # a busy machine is no failure
    fi
    mkdir -p "$kept"
    seeds_of "$target" | paste -sd, | tr -d '\n' >"work/$target.seeds"
    [ -f "dictionaries/$target.dict" ] && more+=(-dict="dictionaries/$target.dict")
    if ! "$binary" "${more[@]}" -print_final_stats=1 -artifact_prefix=work/crashes/ \
        -seed_inputs="@work/$target.seeds" "$kept" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        printf '%s: stopped; see fuzz/%s\n' "$target" "$log" >&2
        return 1
    fi
    local executed
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "${executed:-0}" -lt "$runs" ]; then
        printf '%s: executed %s of %s inputs; see fuzz/%s\n' "$target" "${executed:-none}" "$runs" "$log" >&2
        return 1
    fi
    local stat='s/^stat::\([a-z_]*\): *\([0-9]*\)$/\1 \2/p'
    local done edges own='-'
    done=$(grep -aE '^#[0-9]+[[:space:]]+DONE' "$log")
    edges=$(sed -n 's/.*Loaded 1 PC tables (\([0-9]*\) PCs).*/\1/p' "$log")
    if [ "$mode" = smoke ]; then rm -rf "$kept"; else own=$(./coverage.sh "$binary" "$kept"); fi
    sed -n "$stat" "$log" | awk -v t="$target" -v edges="$edges" -v own="$own" \
        -v covered="$(sed 's/.* cov: \([0-9]*\).*/\1/' <<<"$done")" \
        -v kept="$(sed 's/.* corp: \([0-9]*\).*/\1/' <<<"$done")" '
        { s[$1] = $2 }
        END { printf "| `%s` | %d | %d | %d of %d | %s | %d | %d |\n", t, s["number_of_executed_units"],
              s["average_exec_per_sec"], covered, edges, own, kept, s["peak_rss_mb"] }'
}

echo "| target | executions | a second | edges covered | of our own | inputs kept | most memory, MB |"
echo "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
mode=$target
failed=0
for target in "${targets[@]}"; do fuzz "$target" || failed=1; done
exit $failed
