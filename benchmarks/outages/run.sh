#!/usr/bin/env bash
# Kafka, PostgreSQL and blob storage in turn are away for two minutes while readings go on coming at the greatest rate that this
# machine commits, which is measured first. Memory, health and log of each process are watched, and windows, predictions and
# dead letters compared with the oracle's. Flags go to the benchmark: --seconds 20 --servers kafka,blobs --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build outages
test_servers
exec "$bins/outages" "$@"
