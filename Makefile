# What a developer does here; `make` alone lists it. Everything is installed into .venv, servers excepted.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
PEERS := bench/.venv
# Where it is set (as in many containers), every process compiles all of our modules, and each worker all tests.
unexport PYTHONDONTWRITEBYTECODE
NEWEST := .venv-newest

.NOTPARALLEL:
.PHONY: help servers browser test docker-test newest faults money matrix check format demo bench screenshots schemas clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-11s %s\n' "$$target" "$$text"; done

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

servers: ## Install RabbitMQ, Postgres, Redis and Prometheus where they are missing (apt as root; says what to do otherwise)
	@sh scripts/install-servers.sh

browser: ## Install Chromium for the tests of pages where it is missing (apt as root; says what to do otherwise)
	@sh scripts/install-browser.sh

# The tests are shared out among workers: whole files, in the order of their names, by which the long ones come
# first; the end of a worker is the end of the run. All of them have more workers than a small machine has
# processors, as many tests wait; a folder that T names has two. Tests that T names closer run in one process,
# where -s and --pdb work, and so does what has to share the one virtual host of TEST_AMQP_URL.
WORKERS := $(if $(T),2,4)
ONE_PROCESS := $(TEST_AMQP_URL)$(filter -%,$(T))$(findstring .py,$(T))
SHARED_OUT := -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: $(BIN)/.test servers browser ## Run the tests, with real servers; T="tests/unit -k name" chooses some
	$(BIN)/python -m pytest $(if $(ONE_PROCESS),,$(SHARED_OUT)) $(T)

faults: $(BIN)/.test servers ## Run the fault tests, generated requests and examples at full length (make test: a short round)
	TEST_LENGTH=full $(BIN)/python -m pytest $(SHARED_OUT) tests/faults tests/api tests/unit

money: $(BIN)/.test servers ## Prove the money at full length: 100,000 generated histories, 10,000 paid jobs with kills
	TEST_LENGTH=full $(BIN)/python -m pytest -n 2 tests/unit/test_money_model.py tests/faults/test_paid_jobs.py

matrix: $(BIN)/.test ## Try all that the media services' schemas accept, on inputs of many kinds; M="arguments"
	$(BIN)/python -m tests.matrix $(M)

# With the engine that runs here, or Debian's. DOCKER_TEST_KEEP=1 keeps what the next run can use again.
docker-test: $(BIN)/.test ## Build the container images and run the compose files for real (root on Debian, or Docker)
	$(BIN)/python -m pytest -o python_files='check_*.py' --timeout 1800 -p no:xdist tests/containers $(T)

newest: $(BIN)/.test ## Run tests/unit on the newest Python found, if there is a newer one than .venv has
	@python=$$(sh scripts/newest-python.sh $(BIN)/python); \
	if [ -z "$$python" ]; then \
		echo "no Python newer than $$($(BIN)/python -V) here: tests/unit run on that one alone"; \
	else \
		$(MAKE) --no-print-directory $(NEWEST)/.test PYTHON="$$python" && \
		$(NEWEST)/bin/python -V && \
		$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile tests/unit; \
	fi

$(NEWEST)/.test: $(INPUTS)
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

check: $(BIN)/.check ## Formatting, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BIN)/.check ## Format the code and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: $(BIN)/.demo $(if $(AMQP),servers) ## Watch jobs run on two miners, without servers; AMQP=1 with RabbitMQ and Postgres, MONEY=1 with accounts
	$(BIN)/coordinator demo $(if $(AMQP),--amqp) $(if $(MONEY),--money)

bench: $(BIN)/.demo $(PEERS)/.installed servers ## Compare with other task queues; QUICK=1, SCALE=1, B="arguments"
	$(BIN)/python -m bench $(if $(SCALE),scale) $(if $(QUICK),--quick) $(B)

screenshots: $(BIN)/.test browser ## Take a picture of each page of the dashboard; TO="folder" [demo-output/screenshots]
	$(BIN)/python -m tests.pages.screenshots $(TO)

schemas: $(BIN)/.demo ## Write schemas/ anew from the code
	$(BIN)/python -m coordinator.dev.schemas

clean: ## Remove .venv and everything made by the tools
	rm -rf .venv $(NEWEST) $(PEERS) bench/results .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
