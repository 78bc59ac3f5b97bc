# Stands in for prom/prometheus where no registry can be reached: Debian's, with the same paths and user.
FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && apt-get download prometheus && dpkg-deb --extract prometheus_*.deb /tmp/unpacked \
 && install /tmp/unpacked/usr/bin/prometheus /usr/bin/prometheus \
 && rm -rf prometheus_*.deb /tmp/unpacked /var/lib/apt/lists/* /var/cache/apt/* \
 && install --directory --owner=65534 --group=65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
VOLUME /prometheus
EXPOSE 9090
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
