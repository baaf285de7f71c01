# Sourced: installs Debian packages where this user may, and says exactly what to install where not.
# shellcheck shell=bash

install_packages() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
    fi
    if ! command -v apt-get >/dev/null || [ "${as_root[0]:-}" = false ]; then
        printf 'These are missing and this user may not install them. As root, run:\n\n    apt-get install %s\n\n' "$*" >&2
        exit 2
    fi
    printf 'setup: installing %s\n' "$*" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 ||
        { "${as_root[@]}" apt-get update -q >&2 &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2; }
}
