#!/bin/sh
# Make the virtual environment .venv with the first Python of at least 3.11 that can.
# Debian ships Python without the parts that make one: as root they are installed, otherwise named.
set -eu

find_python() {
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return 0
        fi
    done
    return 1
}

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends "$@"
}

if ! python=$(find_python); then
    may_install && install python3 python3-venv
    python=$(find_python) || {
        echo "Python 3.11 or newer is needed: install it, or say which with make PYTHON=/path/to/python3" >&2
        exit 1
    }
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    if ! may_install; then
        echo "$python cannot make virtual environments. On Debian or Ubuntu: sudo apt-get install $version-venv" >&2
        exit 1
    fi
    install "$version-venv" || install python3-venv
fi

"$python" -m venv .venv || {
    rm -rf .venv # half an environment would pass for a whole one
    exit 1
}
