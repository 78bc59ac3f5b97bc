"""Answers RabbitMQ's HTTP auth backend: who may log in, and may do what there. Writes nothing."""
