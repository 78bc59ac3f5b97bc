FROM debian:trixie-slim-made-here
COPY authorities.crt /etc/ssl/machine-authorities.crt
RUN printf '[global]\ncert = /etc/ssl/machine-authorities.crt\n' >/etc/pip.conf
