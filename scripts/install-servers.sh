#!/bin/sh
# Install RabbitMQ, Postgres, Redis and Prometheus where their programs are missing: as root on Debian or Ubuntu with apt.
# Does nothing where they are there, and nothing but say what to install everywhere else.
set -eu

have_rabbitmq() {
    for place in /usr/lib/rabbitmq/bin /opt/rabbitmq/sbin /opt/homebrew/opt/rabbitmq/sbin \
        /usr/local/opt/rabbitmq/sbin /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin /opt/rabbitmq_server-*/sbin \
        "${RABBITMQ_HOME:-/nonexistent}/sbin"; do
        [ -e "$place/rabbitmq-server" ] && command -v erl >/dev/null && return 0
    done
    return 1
}

have_postgres() {
    command -v initdb >/dev/null && return 0
    for place in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin \
        /usr/local/opt/postgresql@*/bin /usr/local/pgsql/bin; do
        [ -x "$place/initdb" ] && return 0
    done
    return 1
}

have_redis() {
    command -v redis-server >/dev/null || command -v valkey-server >/dev/null
}

have_prometheus() {
    command -v prometheus >/dev/null && command -v promtool >/dev/null
}

packages=""
have_rabbitmq || packages="$packages rabbitmq-server"
have_postgres || packages="$packages postgresql"
have_redis || packages="$packages redis-server"
have_prometheus || packages="$packages prometheus"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
        echo "Missing here:$packages. Docker answers, so containers are used instead (slower to start)."
        have_prometheus || echo "Of Prometheus there is no container: tests of alerts and dashboards need its programs."
        exit 0
    fi
    cat >&2 <<EOF
Missing here:$packages, and Docker does not answer. One of these helps:
  - Debian, Ubuntu: sudo apt-get install --no-install-recommends$packages
    (the packages start system-wide servers; ours are private ones on other ports, so both may run)
  - macOS: brew install rabbitmq postgresql redis prometheus
  - anywhere: start Docker
  - for the tests: set TEST_AMQP_URL, TEST_DATABASE_URL and TEST_REDIS_URL to servers that they may use
EOF
    exit 1
fi

# The packages start system-wide servers when they are installed. We want their programs only, so for as long
# as the installation takes a policy forbids it (see invoke-rc.d(8)); a policy that was there comes back after.
policy=/usr/sbin/policy-rc.d
saved=$policy.coordinator-saved
if [ -e "$policy" ] && [ ! -e "$saved" ]; then # what a run that was killed left in `saved` is the true one
    mv "$policy" "$saved"
fi
restore() {
    if [ -e "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi
}
trap restore EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086  # a list of words on purpose
apt-get install --yes --no-install-recommends $packages

# Nor shall they start with the machine from now on, if it was us who brought them here.
if command -v systemctl >/dev/null; then
    for package in $packages; do
        systemctl disable --quiet "$package.service" || true
    done
fi
