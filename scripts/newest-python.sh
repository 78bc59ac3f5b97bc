#!/bin/sh
# Print the newest released Python found on this machine that is newer than the one given, which can make virtual
# environments. Prints nothing where there is none.
set -eu

newer='
import ensurepip, subprocess, sys, venv
given = subprocess.run(
    [sys.argv[1], "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=True, text=True
)
newer = sys.version_info[:2] > tuple(map(int, given.stdout.split()))
sys.exit(sys.version_info.releaselevel != "final" or not newer)
'

for minor in 20 19 18 17 16 15 14 13 12; do
    for python in "python3.$minor" /usr/bin/"python3.$minor" /usr/local/bin/"python3.$minor" \
        /opt/homebrew/bin/"python3.$minor" "$HOME"/.pyenv/versions/3."$minor".*/bin/python3 \
        "$HOME"/.local/bin/"python3.$minor"; do
        if "$python" -c "$newer" "$1" 2>/dev/null; then
            command -v "$python"
            exit 0
        fi
    done
done
