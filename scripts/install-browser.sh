#!/bin/sh
# Install Chromium where there is none: as root on Debian with apt. Does nothing where it is there, and nothing but
# say what to install everywhere else: the tests of pages then fail.
set -eu

for program in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$program" >/dev/null && exit 0
done

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update && apt-get install --yes --no-install-recommends chromium && exit 0
fi

cat >&2 <<EOT
Missing here: Chromium, in which the tests look at a page. Without it they fail. One of these helps:
  - Debian: sudo apt-get install --no-install-recommends chromium
  - Ubuntu: sudo snap install chromium
  - macOS: brew install --cask google-chrome, and its program as google-chrome on PATH
EOT
exit 0
