"""The miner program: takes offers, runs them with executors, and sends back signed results."""
