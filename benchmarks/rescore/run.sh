#!/usr/bin/env bash
# A day of minutes, 10,000 series, scored again with another model set: the dry run and the run agree, and a reader that polls
# the published files meanwhile never sees a half-made interval. Flags go to the benchmark: --series 1000 --intervals 60.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
build rescore
postgres
exec "$bins/rescore" "$@"
