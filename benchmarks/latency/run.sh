#!/usr/bin/env bash
# From a reading's arrival in Kafka to its commit in PostgreSQL and to the prediction of its window, at 10, 50 and 90 % of the
# greatest rate that this machine commits, which is measured first; windows, predictions and dead letters must be the oracle's.
# Flags go to the benchmark: --seconds 60 (or --minutes 1) for each load, --loads 10,50,90 --rate 100000 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build latency
test_servers
exec "$bins/latency" "$@"
