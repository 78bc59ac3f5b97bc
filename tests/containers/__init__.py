"""The container files, run for real: `make docker-test`. Not part of `make test`, which checks what the files say."""
