#!/usr/bin/env bash
# Called by cargo in the place of rustc. Coverage is for our own code and for what it hands bytes from outside to; all other
# packages are built without it, which takes a third of the time and lets the fuzzer look where something can be found.
set -euo pipefail
rustc=$1
shift
name=
previous=
for arg in "$@"; do
    [ "$previous" = --crate-name ] && name=$arg
    previous=$arg
done
case $name in
    fleetscore_fuzz) ;;
    fleetscore_* | httparse | hyper | figment | toml | toml_parser | toml_edit | humantime | croner | serde_json | miniz_oxide)
        exec "$rustc" "$@"
        ;;
esac
plain=()
for arg in "$@"; do
    case $arg in
        -Cpasses=sancov-module | -Cllvm-args=-sanitizer-coverage*) ;;
        *) plain+=("$arg") ;;
    esac
done
exec "$rustc" "${plain[@]}"
