"""Commands and their answers over AMQP, as miners and clients send them."""
