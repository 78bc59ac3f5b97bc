#!/bin/sh
# Fetch what the dashboard's pages load (npm's htmx.org, 0BSD, and uplot, MIT), and what their tests use (axe-core,
# MPL-2.0, not part of the package), as their projects publish them. For a new version change the lines below:
# `npm view htmx.org dist.integrity` tells.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
static=$root/src/coordinator/edge/dashboard/static
tests=$root/tests/harness/axe
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() { # NAME VERSION INTEGRITY: its files are then in $work/NAME/package
    mkdir "$work/$1"
    cd "$work/$1"
    npm pack --silent "$1@$2" >/dev/null
    got="sha512-$(openssl dgst -sha512 -binary "$1-$2.tgz" | openssl base64 -A)"
    [ "$got" = "$3" ] || { echo "$1 $2 is not what it was: $got" >&2; exit 1; }
    tar xzf "$1-$2.tgz"
}

fetch htmx.org 4.0.1 \
    'sha512-oF7JgXhDW9UXCy/k1ZYFUQgzu/rm19ORWPSPNL91vPluB2PB9+MV55tyQdH/w7o2EAbTYUG5SDW1R60mdkdqGg=='
fetch uplot 1.6.32 \
    'sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw=='
fetch axe-core 4.14.1 \
    'sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=='

# Without the lines that name source maps, which are not served.
plain() { sed '/^\/\/# sourceMappingURL=/d' "$1" >"$2"; }
plain "$work/htmx.org/package/dist/htmx.min.js" "$static/htmx.min.js"
plain "$work/htmx.org/package/dist/ext/hx-sse.min.js" "$static/hx-sse.min.js"
cp "$work/htmx.org/package/LICENSE" "$static/htmx.LICENSE"
plain "$work/uplot/package/dist/uPlot.iife.min.js" "$static/uplot.min.js"
cp "$work/uplot/package/dist/uPlot.min.css" "$static/uplot.min.css"
cp "$work/uplot/package/LICENSE" "$static/uplot.LICENSE"
mkdir -p "$tests"
gzip -9 -n -c "$work/axe-core/package/axe.min.js" >"$tests/axe.min.js.gz"
cp "$work/axe-core/package/LICENSE" "$tests/axe-core.LICENSE"
