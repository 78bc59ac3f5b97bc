"""An event-sourced coordinator for GPU miners on RabbitMQ."""

__version__ = "0.1.0"
