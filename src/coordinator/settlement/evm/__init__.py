"""The sink that pays by a contract on a chain of the Ethereum Virtual Machine."""
