#!/usr/bin/env bash
# What a build needs beside Rust: C and C++ compilers, make, pkg-config and OpenSSL's headers (librdkafka). Brings it
# where it may; names it where it may not.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd)/packages.sh"

if ! command -v cargo >/dev/null; then
    echo "Rust is missing: see https://rustup.rs" >&2
    exit 2
fi
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v g++ >/dev/null || command -v c++ >/dev/null || command -v clang++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
command -v pkg-config >/dev/null || missing+=(pkg-config)
[ ${#missing[@]} -eq 0 ] && pkg-config --exists openssl || missing+=(libssl-dev)
if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
