#!/bin/sh
# Fetch Swagger UI as its project publishes it (npm's swagger-ui-dist, Apache-2.0) and pack the two files that
# /docs loads. For a new version change the two lines below: `npm view swagger-ui-dist dist.integrity` tells.
set -eu
VERSION=5.35.0
INTEGRITY='sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ=='

assets=$(cd "$(dirname "$0")/../src/coordinator/edge/pages/assets" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "swagger-ui-dist@$VERSION" >/dev/null
got="sha512-$(openssl dgst -sha512 -binary "swagger-ui-dist-$VERSION.tgz" | openssl base64 -A)"
[ "$got" = "$INTEGRITY" ] || { echo "swagger-ui-dist $VERSION is not what it was: $got" >&2; exit 1; }
tar xzf "swagger-ui-dist-$VERSION.tgz"
for file in swagger-ui-bundle.js swagger-ui.css; do
    # Without name and time, so that the same version gives the same bytes.
    gzip -9 -n -c "package/$file" >"$assets/$file.gz"
done
cp package/LICENSE "$assets/swagger-ui.LICENSE"
cp package/NOTICE "$assets/swagger-ui.NOTICE"
cp package/swagger-ui-bundle.js.LICENSE.txt "$assets/"
