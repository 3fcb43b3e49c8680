# Every task is one target; `make help` lists them. The virtual environment is made from requirements.lock on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all faults bench lock-bench lint types contracts check lock config-example clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): requirements.lock pyproject.toml .ci/bootstrap.py
	$(PYTHON) .ci/bootstrap.py $(VENV)
	@touch $@

demo: $(READY) ## run the main job: a simulated microscope, the daemon, a stand-in render-ws
	$(BIN)/temwatch demo

# Most tests wait for processes now and then: four at a time keep two cores busy. They start hundreds of processes, each of which
# would compile temwatch anew where Python is told to keep no bytecode.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist worksteal
test: $(READY) ## run the tests (under five minutes)
	$(PYTEST)

test-slow: $(READY) ## run the long tests, which `make test` leaves out
	$(PYTEST) -m slow

test-all: test test-slow ## run every test

SCALE ?= full
faults: $(READY) ## inject every fault and print what was lost: nothing (half an hour; SCALE=short: five minutes)
	$(BIN)/python -m tests.acceptance.faults --scale $(SCALE)

BENCHED := $(VENV)/.bench-ready
$(BENCHED): $(READY) benchmarks/requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.lock
	@touch $@

bench: $(BENCHED) ## measure every target of docs/performance.md (under fifteen minutes), into benchmarks/results
	$(BIN)/python -m benchmarks

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

contracts: $(READY) ## import contracts
	$(BIN)/lint-imports

check: lint types contracts ## everything that needs no running

lock: $(READY) ## renew requirements.lock from pyproject.toml (needs uv)
	uv pip compile --quiet --upgrade --generate-hashes --no-header --python-version 3.11 --python-platform linux \
	  pyproject.toml --group dev --extra dask -o requirements.lock

lock-bench: $(READY) ## renew benchmarks/requirements.lock (needs uv)
	uv pip compile --quiet --generate-hashes --no-header --python-version 3.11 --python-platform linux \
	  --group bench -c requirements.lock -o benchmarks/requirements.lock

config-example: $(READY) ## write config.example.toml from the settings model
	$(BIN)/temwatch check-config --print-example > config.example.toml

clean: ## remove what the targets made
	rm -rf $(VENV) build dist demo-output .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
