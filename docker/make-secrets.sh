#!/bin/sh
# Write .env beside this script, with a new random secret for each part. An existing .env stays as it is: the databases
# keep the passwords that they were made with.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "docker/.env exists already, and stays as it is" >&2
    exit 0
fi
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
new=$(mktemp .env.XXXXXX)
trap 'rm -f "$new"' EXIT
cat >"$new" <<EOF
# Keep this file: RabbitMQ and Postgres take their passwords from it when their volumes are first made, and never again.
APP_ENV=prod
POSTGRES_PASSWORD=$(secret)
RABBITMQ_PASSWORD=$(secret)
CLIENT_SECRET=$(secret)
MINER_SECRET=$(secret)
ADMIN_SECRET=$(secret)
METRICS_KEY=prometheus:$(secret)
GRAFANA_PASSWORD=$(secret)
EOF
ln "$new" .env # fails where another run has made one meanwhile
echo "docker/.env has new secrets"
