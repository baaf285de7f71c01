#!/usr/bin/env bash
# The decision function beside scikit-learn, onnxruntime and linfa-svm: one core each, the same data, one run.
# Arguments go to the benchmark: --json FILE, --repetitions N, --no-python.
# FLEETSCORE_BENCH_BINS names a folder with a built `kernel`; otherwise it is built with `cargo build --release`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."

if [ -n "${FLEETSCORE_BENCH_BINS:-}" ]; then
    kernel=$FLEETSCORE_BENCH_BINS/kernel
else
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/kernel-benchmark
    "${CARGO:-cargo}" build --release --locked --manifest-path "$here/Cargo.toml" >&2
    kernel=$CARGO_TARGET_DIR/release/kernel
fi
case " $* " in
*" --no-python "* | *" --help "*) exec "$kernel" "$@" ;;
esac

# A Python environment in the tests' cache folder, made once for these requirements.
cache=${FLEETSCORE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fleetscore-tests}
venv=$cache/bench-kernel-$(sha256sum "$here/requirements.txt" | cut -c1-12)
if [ ! -e "$venv/complete" ]; then
    echo "fetching scikit-learn and onnxruntime from PyPI" >&2
    rm -rf "$venv" && mkdir -p "$cache" && python3 -m venv "$venv"
    "$venv/bin/pip" install -q -r "$here/requirements.txt" >&2
    touch "$venv/complete"
fi
exec "$kernel" --python "$venv/bin/python" --peers "$here/peers.py" "$@"
