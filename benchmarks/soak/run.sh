#!/usr/bin/env bash
# Half an hour at half of the greatest rate that this machine commits, which is measured first: memory, file handles, bytes of SQL
# for each window and latency must stay flat, and the result be the oracle's. Plots and samples go to docs/soak.
# Flags go to the benchmark: --minutes 2 --plots FOLDER --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build soak
test_servers
exec "$bins/soak" "$@"
