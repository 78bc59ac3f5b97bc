"""The sink that pays by transfers on the chain of AITBC."""
