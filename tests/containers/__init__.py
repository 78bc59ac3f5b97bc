"""The container files, run for real: `make docker-test`. `make test` checks only what the files say."""
