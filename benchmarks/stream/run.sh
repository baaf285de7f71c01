#!/usr/bin/env bash
# From messages to windows, stage by stage:
#
#   benchmarks/stream/run.sh decode    JSON to Arrow columns on one core, beside serde_json
#   benchmarks/stream/run.sh panes     JSON to panes on one core, without a broker and a database
#   benchmarks/stream/run.sh kafka     Kafka to windows committed in PostgreSQL and in SQLite, beside the bare client;
#                                      with --peers flink,flink-postgres,streams,streams-alo beside these
#   benchmarks/stream/run.sh known     the same into PostgreSQL where all series are known, by their number
#   benchmarks/stream/run.sh checkpoint
#                                      one checkpoint of a million windows, new and changed, beside what PostgreSQL takes
#
# Flags go to the benchmark: --series 10000,1000000 --packed 1,100 --readings 5000000 --json FILE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
wanted=(-p fleetscore-benchmark-stream)
case " $* " in *" kafka "* | *" known "*)
    test_servers
    [ -n "${FLEETSCORE_BIN:-}" ] || wanted+=(-p fleetscore --bin fleetscore --bin stream)
    ;;
esac
[ -n "${FLEETSCORE_BENCH_BINS:-}" ] || "${CARGO:-cargo}" build --release "${wanted[@]}" >&2
target=${CARGO_TARGET_DIR:-$root/target}
bins=${FLEETSCORE_BENCH_BINS:-$target/release}
export FLEETSCORE_BIN=${FLEETSCORE_BIN:-$target/release/fleetscore}
exec "$bins/stream" "$@"
