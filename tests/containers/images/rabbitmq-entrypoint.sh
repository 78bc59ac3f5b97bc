#!/bin/sh
# RabbitMQ itself takes RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS; what is left is the change of the user.
set -eu
if [ "$1" = rabbitmq-server ] && [ "$(id -u)" = 0 ]; then
    chown -R rabbitmq: /var/lib/rabbitmq
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "$0" "$@"
fi
exec "$@"
