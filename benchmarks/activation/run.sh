#!/usr/bin/env bash
# Two sets of a million models take turns while a worker scores every second: no interval mixes two sets, none is
# skipped. Flags go to the benchmark: --models 100000 --scored-series 20000 --intervals 120 --every 3 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build activation
postgres
exec "$bins/activation" "$@"
