"""Settlement sinks: what pays a batch out. The port is `application.ports.sinks`."""
