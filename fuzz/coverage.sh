#!/usr/bin/env bash
# How many edges of our own code (functions whose name holds `fleetscore_`, without those of the fuzz package) a corpus
# covers: "COVERED of ALL".
#
#   fuzz/coverage.sh BINARY CORPUS
#
# What libFuzzer writes when it merges a corpus names the edges that each input is the first to reach, by their place in the
# binary's table of edges.
set -euo pipefail
binary=$1 corpus=$2
command -v readelf >/dev/null && command -v nm >/dev/null || { echo -; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/merged"

"$binary" -merge=1 -merge_control_file="$work/control" "$work/merged" "$corpus" >/dev/null 2>&1 || { echo -; exit 0; }
grep -a '^COV ' "$work/control" | cut -d' ' -f3- | tr ' ' '\n' | sort -un >"$work/seen"
nm --defined-only "$binary" | awk '$2 ~ /[tTwW]/ { print $1, $3 }' | sort >"$work/functions"
# The table holds pairs of an edge's address and flags; in a relocatable program the addresses are relocations.
read -r start size < <(readelf -SW "$binary" | sed 's/^ *\[ *[0-9]*\] *//' | awk '$1 == "__sancov_pcs" { print $3, $5 }')
from=$(printf '%016x' "0x$start") to=$(printf '%016x' $((0x$start + 0x$size)))
readelf -rW "$binary" | awk -v from="$from" -v to="$to" '
    $3 ~ /_RELATIV/ && "" $1 >= "" from && "" $1 < "" to { print $1, $4 }' | sort >"$work/edges"

# Edges in functions of ours, by the last function that begins at or before each.
awk -v from="$from" '
    # Not every awk knows strtonum.
    function number(hex,    i, n) {
        n = 0
        for (i = 1; i <= length(hex); i++) n = n * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
        return n
    }
    FILENAME ~ /functions$/ { at[n] = number($1); own[n++] = ($2 ~ /fleetscore_/ && $2 !~ /fleetscore_fuzz/); next }
    FILENAME ~ /seen$/ { seen[$1] = 1; next }
    {
        place = (number($1) - number(from)) / 16
        if (place != int(place)) next
        edge = number($2)
        lo = 0
        hi = n - 1
        while (lo < hi) { mid = int((lo + hi + 1) / 2); if (at[mid] <= edge) lo = mid; else hi = mid - 1 }
        if (own[lo]) { total++; if (place in seen) covered++ }
    }
    END { printf "%d of %d\n", covered, total }' "$work/functions" "$work/seen" "$work/edges"
