#!/usr/bin/env bash
# The peers of the streaming benchmark: Flink SQL and Kafka Streams over a topic of readings, and a program that fills one.
# Each builds what it needs by Maven, once, and prints one line of JSON (benchmarks/peers/README.md).
#
#   run.sh flink   --bootstrap HOST:PORT --topic TOPIC [--sink blackhole|postgres] [--pg-url URL] [--packed N]
#                  [--checkpoint-ms 1000] [--parallelism CORES]
#   run.sh streams --bootstrap HOST:PORT --topic TOPIC [--guarantee eos|alo] [--threads 2] [--commit-ms 1000]
#                  [--store rocksdb|memory]
#   run.sh fill    --bootstrap HOST:PORT --topic NEW [--readings N] [--series N] [--sensors N] [--partitions N]
#                  [--minutes N] [--packed N] [--seed N]
#   run.sh build   builds alone
#
# FLEETSCORE_PEER_JAVA holds the options of Java (default: -Xmx4g -XX:+UseParallelGC).
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
here=$root/benchmarks/peers

command -v mvn >/dev/null && command -v javac >/dev/null || {
    . "$root/scripts/packages.sh"
    install_packages maven openjdk-17-jdk-headless
}

# One folder in the tests' cache for each state of the sources.
cache=${FLEETSCORE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fleetscore-tests}
sources=$(cd "$here" && find . -name pom.xml -o -name '*.java' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-12)
jars=$cache/peers-$sources
if [ ! -e "$jars/complete" ]; then
    printf 'building the peers with packages from Maven\n' >&2
    rm -rf "$jars" && mkdir -p "$jars"
    mvn -q -B -Dstyle.color=never -f "$here/pom.xml" -Dout="$jars" package >&2
    touch "$jars/complete"
fi

peer() { # peer FOLDER CLASS ARGUMENTS
    local folder=$1 class=$2
    shift 2
    # shellcheck disable=SC2086
    exec java ${FLEETSCORE_PEER_JAVA:--Xmx4g -XX:+UseParallelGC} -Dorg.slf4j.simpleLogger.defaultLogLevel=error "${flags[@]}" \
        -cp "$jars/$folder/peer.jar:$jars/$folder/libs/*" "peers.$class" "$@"
}

flags=()
what=${1:-}
shift || true
case $what in
    build) ;;
    flink)
        # Of Flink's own list of what it wants opened in Java 17, what this job uses.
        for package in lang lang.invoke lang.reflect math net nio text time util util.concurrent util.concurrent.atomic; do
            flags+=(--add-opens "java.base/java.$package=ALL-UNNAMED")
        done
        peer flink FlinkPeer "$@"
        ;;
    streams) peer streams StreamsPeer "$@" ;;
    fill) peer streams Fill "$@" ;;
    *)
        sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$here/run.sh" >&2
        exit 2
        ;;
esac
