#!/usr/bin/env bash
# Brings the servers that the end-to-end tests run against: a real Apache Kafka (from Maven's registry), PostgreSQL,
# Azurite (npm), and the Python packages that read what we publish. Prints `NAME=value` lines for the test harness.
#
# Debian packages are installed where this may (as root, or by passwordless sudo); elsewhere it says exactly what to
# install. Everything else goes into one cache folder, FLEETSCORE_TEST_CACHE (default: ~/.cache/fleetscore-tests),
# and is fetched once.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${FLEETSCORE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fleetscore-tests}
mkdir -p "$cache"
say() { printf 'setup: %s\n' "$*" >&2; }

. "$here/../scripts/packages.sh"

postgres_bin() { # the newest server on this machine, wherever Debian, an environment variable or PATH has it
    local d
    for d in "${PG_BIN:-}" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) "$(dirname "$(command -v postgres || echo /nowhere/postgres)")"; do
        if [ -n "$d" ] && [ -x "$d/initdb" ] && [ -x "$d/postgres" ]; then echo "$d"; return; fi
    done
}

missing=()
[ -n "$(postgres_bin)" ] || missing+=(postgresql)
command -v psql >/dev/null || missing+=(postgresql-client)
command -v sqlite3 >/dev/null || missing+=(sqlite3)
command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
command -v mvn >/dev/null || missing+=(maven)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v kcat >/dev/null || missing+=(kcat)
command -v openssl >/dev/null || missing+=(openssl)
python=$(command -v python3 || true)
if [ -z "$python" ]; then missing+=(python3 python3-venv); python=python3; fi
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi

# --- Apache Kafka -------------------------------------------------------------------------------------------------
kafka="$cache/kafka-$(sha256sum "$here/servers/kafka/pom.xml" | cut -c1-12)"
if [ ! -e "$kafka/complete" ]; then
    say "fetching Apache Kafka from Maven's registry"
    rm -rf "$kafka" && mkdir -p "$kafka"
    mvn -q -B -Dstyle.color=never -f "$here/servers/kafka/pom.xml" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$kafka/libs" >&2
    touch "$kafka/complete"
fi

# --- Azurite --------------------------------------------------------------------------------------------------------
azurite="$cache/azurite-$(sha256sum "$here/servers/azurite/package.json" | cut -c1-12)"
if [ ! -e "$azurite/complete" ]; then
    say "fetching Azurite from the npm registry"
    rm -rf "$azurite" && mkdir -p "$azurite"
    cp "$here/servers/azurite/package.json" "$azurite/"
    (cd "$azurite" && npm install --no-audit --no-fund --silent >&2)
    touch "$azurite/complete"
fi

# --- Python readers of what we publish ------------------------------------------------------------------------------
venv="$cache/python-$(sha256sum "$here/servers/python/requirements.txt" | cut -c1-12)"
if [ ! -e "$venv/complete" ]; then
    say "fetching pyarrow, datafusion and confluent-kafka from PyPI"
    rm -rf "$venv" && "$python" -m venv "$venv"
    "$venv/bin/pip" install -q -r "$here/servers/python/requirements.txt" >&2
    touch "$venv/complete"
fi

cat <<ENV
FLEETSCORE_TEST_KAFKA_LIBS=$kafka/libs
FLEETSCORE_TEST_PG_BIN=$(postgres_bin)
FLEETSCORE_TEST_AZURITE=$azurite/node_modules/azurite/dist/src/azurite.js
FLEETSCORE_TEST_PYTHON=$venv/bin/python
ENV
