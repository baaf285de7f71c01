#!/usr/bin/env bash
# How long a look at runs takes with 1,000, 10,000 and 100,000 of them, on PostgreSQL and SQLite: the command and the views.
# Flags go to the benchmark: --runs 10000 --repeats 5 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build history
postgres
exec "$bins/history" "$@"
