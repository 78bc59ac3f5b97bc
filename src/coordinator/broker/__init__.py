"""Everything RabbitMQ. Only this package imports aio-pika and FastStream; embedded mode never imports it."""
