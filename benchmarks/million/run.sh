#!/usr/bin/env bash
# One window for each of 10 k, 100 k and 1 M models on PostgreSQL and SQLite: windows in SQL to predictions in SQL,
# Parquet and CSV. Flags go to the benchmark: --models 10000,100000 --store postgres --repeats 5 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build million
postgres
exec "$bins/million" "$@"
