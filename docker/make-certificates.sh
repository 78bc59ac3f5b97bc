#!/bin/sh
# Make a private authority in tls/, and by it a certificate for each server of compose.tls.yaml:
#   sh make-certificates.sh [name or address by which others reach this machine]…
# A second run keeps the authority, and gives the servers new certificates.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p tls
cd tls

if [ ! -e ca.crt ]; then
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key 2>/dev/null
    openssl req -x509 -new -key ca.key -days 3650 -subj "/CN=Authority of this coordinator's containers" \
        -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
        -out ca.new
    mv ca.new ca.crt
fi

names=""
for name in localhost 127.0.0.1 "$@"; do
    case $name in
        *[!0-9.]*) case $name in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
        *) kind=IP ;;
    esac
    names="$names,$kind:$name"
done

for server in coordinator rabbitmq postgres; do
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$server.key" 2>/dev/null
    cat >"$server.ext" <<EOF
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:$server$names
EOF
    openssl req -new -key "$server.key" -subj "/CN=$server" -out "$server.csr"
    openssl x509 -req -in "$server.csr" -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -days 365 \
        -extfile "$server.ext" -out "$server.crt" 2>/dev/null
    rm "$server.csr" "$server.ext"
done
echo "docker/tls has certificates of coordinator, rabbitmq and postgres for a year; others need only tls/ca.crt"
