# What a developer does here; `make` alone lists it. Everything is installed into .venv, servers excepted.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
PEERS := bench/.venv

.NOTPARALLEL:
.PHONY: help servers test check format demo bench schemas clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-9s %s\n' "$$target" "$$text"; done

$(BIN)/python:
	sh scripts/make-venv.sh

# One stamp per set of extras: installed again when pyproject.toml or constraints.txt have changed since. They
# are kept inside .venv so that they go with it.
$(BIN)/.demo: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e '.[ffmpeg]'
	@touch $@

$(BIN)/.test: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e '.[test]'
	@touch $@

$(BIN)/.check: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e '.[test,check]'
	@touch $@ $(BIN)/.test

# The peers have an environment of their own: what they need is nothing that ours should depend on.
$(PEERS)/.installed: bench/peers/requirements.txt bench/peers/constraints.txt | $(BIN)/python
	$(BIN)/python -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c bench/peers/constraints.txt -r bench/peers/requirements.txt
	@touch $@

servers: ## Install RabbitMQ, Postgres and Redis where they are missing (apt as root; says what to do otherwise)
	@sh scripts/install-servers.sh

# All the tests are shared out among workers: whole files, in the order of their names, by which the long ones
# come first; the end of a worker is the end of the run. What T chooses runs in one process, where -s and --pdb
# work, and so does what has to share the one virtual host of TEST_AMQP_URL.
WORKERS := 2
SHARED_OUT := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: $(BIN)/.test servers ## Run the tests, with real servers; T="tests/unit -k name" chooses some
	$(BIN)/python -m pytest $(if $(T)$(TEST_AMQP_URL),,$(SHARED_OUT)) $(T)

check: $(BIN)/.check ## Formatting, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BIN)/.check ## Format the code and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: $(BIN)/.demo $(if $(AMQP),servers) ## Watch jobs run on two miners, without servers; AMQP=1 with RabbitMQ and Postgres
	$(BIN)/coordinator demo $(if $(AMQP),--amqp)

bench: $(BIN)/.demo $(PEERS)/.installed servers ## Compare with other task queues; QUICK=1, SCALE=1, B="arguments"
	$(BIN)/python -m bench $(if $(SCALE),scale) $(if $(QUICK),--quick) $(B)

schemas: $(BIN)/.demo ## Write schemas/ anew from the code
	$(BIN)/python -m coordinator.dev.schemas

clean: ## Remove .venv and everything made by the tools
	rm -rf .venv $(PEERS) bench/results .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
