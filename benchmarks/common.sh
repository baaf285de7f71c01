# What the benchmarks' scripts share; sourced by each run.sh. Sets $root and $bins.
#
# `FLEETSCORE_BIN` names a built binary and `FLEETSCORE_BENCH_BINS` a folder of built benchmarks; what is not given is
# built with `cargo build --release` (a first build takes about half an hour on two cores).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# Help needs no build where it would be the first: what the script says of itself.
case " $* " in *" --help "*) if [ -z "${FLEETSCORE_BENCH_BINS:-}" ]; then sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0; fi ;; esac

# build NAME: the binary and the benchmark of this name, in one go so that both use the same packages.
build() {
    local wanted=()
    [ -n "${FLEETSCORE_BENCH_BINS:-}" ] || wanted+=(-p fleetscore-benchmarks --bin "$1")
    [ -n "${FLEETSCORE_BIN:-}" ] || wanted+=(-p fleetscore --bin fleetscore)
    if [ ${#wanted[@]} -gt 0 ]; then "${CARGO:-cargo}" build --release "${wanted[@]}" >&2; fi
    local target=${CARGO_TARGET_DIR:-$root/target}
    bins=${FLEETSCORE_BENCH_BINS:-$target/release}
    export FLEETSCORE_BIN=${FLEETSCORE_BIN:-$target/release/fleetscore}
}

# The programs of PostgreSQL: as Debian has them, else as the tests' own setup finds or installs them.
postgres() {
    local dir
    for dir in "${FLEETSCORE_TEST_PG_BIN:-}" "${PG_BIN:-}" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
        if [ -n "$dir" ] && [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && command -v psql >/dev/null; then
            export FLEETSCORE_TEST_PG_BIN=$dir
            return
        fi
    done
    local line
    line=$("$root/tests/setup.sh" | grep '^FLEETSCORE_TEST_PG_BIN=')
    export "${line?}"
}

# Kafka, PostgreSQL and Azurite, as the tests' own setup finds or fetches them.
test_servers() {
    local lines
    lines=$("$root/tests/setup.sh")
    set -a
    eval "$lines"
    set +a
}

# venv NAME REQUIREMENTS: a Python environment with these packages in the tests' cache folder, made once; sets $python.
venv() {
    local cache=${FLEETSCORE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fleetscore-tests}
    local dir
    dir="$cache/$1-$(sha256sum "$2" | cut -c1-12)"
    if [ ! -e "$dir/complete" ]; then
        printf 'fetching the packages of %s from PyPI\n' "$2" >&2
        rm -rf "$dir" && mkdir -p "$cache" && python3 -m venv "$dir"
        "$dir/bin/pip" install -q -r "$2" >&2
        touch "$dir/complete"
    fi
    python=$dir/bin/python
}
