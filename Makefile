# Every task is one target; `make help` lists them. The virtual environment is made from requirements-dev.lock on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --no-build-isolation

# The demonstration and the tests start many processes, each of which would compile temwatch and its libraries again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all faults bench fuzz mutants lint types contracts spelling check wheel lock config-example clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# An editable installation compiles the code; compiled code of another source is not loaded.
$(READY): requirements-dev.lock pyproject.toml hatch_build.py $(wildcard handlers/*/*.c handlers/*/*/*.c)
	.ci/venv $(PYTHON) $(VENV) requirements-dev.lock
	$(PIP_INSTALL) --editable .
	$(BIN)/pip check
	@touch $@

demo: $(READY) ## run the main job: a simulated microscope, the daemon, a stand-in render-ws
	$(BIN)/temwatch demo

# Most tests often wait for processes: six at a time keep two cores busy.
PYTEST := $(BIN)/python -m pytest -n 6 --dist worksteal
TESTS ?= tests
test: $(READY) ## run the tests (about six minutes on two cores; TESTS=tests/unit runs only these)
	$(PYTEST) $(TESTS)

# Only the modules with long tests: six processes import all others in a minute of CPU, to run nothing of them.
test-slow: $(READY) ## run the long tests, which `make test` leaves out
	$(PYTEST) -m slow $$(grep -rl --include='test_*.py' 'mark\.slow' tests)

test-all: test test-slow ## run every test

SCALE ?= full
faults: $(READY) ## inject every fault and print what was lost (an hour; SCALE=short: ten minutes)
	$(BIN)/python -m tests.acceptance.faults --scale $(SCALE)

# ARGS="images --seed 17" tries one input; docs/reliability.md.
FUZZ_MINUTES ?= 4
fuzz: $(READY) ## fuzz everything that others write: images, metafiles, answers, requests (FUZZ_MINUTES=60: longer)
	$(BIN)/python -m tests.fuzz --minutes $(FUZZ_MINUTES) $(ARGS)

BENCHED := $(VENV)/.bench-ready
$(BENCHED): $(READY) benchmarks/requirements-build.lock benchmarks/requirements.lock
	$(PIP_INSTALL) --require-hashes -r benchmarks/requirements-build.lock
	$(PIP_INSTALL) --require-hashes -r benchmarks/requirements.lock
	$(BIN)/pip check
	@touch $@

bench: $(BENCHED) ## measure every target of docs/performance.md (under twenty minutes), into benchmarks/results
	$(BIN)/python -m benchmarks

MUTATED := $(VENV)/.mutants-ready
$(MUTATED): $(READY) requirements-mutants.lock
	$(PIP_INSTALL) --require-hashes -r requirements-mutants.lock
	$(BIN)/pip check
	@touch $@

# All modules, or MODULE=handlers/uris.py. ARGS="--sample 1000 --seed 1 --minutes 60": mutants of a module, drawn with a seed.
mutants: $(MUTATED) ## mutate the modules on which the documented promises depend; list the mutants that no test detects (an hour)
	$(BIN)/python -m tests.mutants $(ARGS) $(MODULE)

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

contracts: $(READY) ## import contracts
	$(BIN)/lint-imports

spelling: $(READY) ## codespell, over every file
	$(BIN)/codespell

check: lint types contracts spelling ## every check that runs no code

wheel: ## build the wheel into dist, where it replaces any former one
	.ci/venv $(PYTHON) build/venv requirements-build.lock
	rm -f dist/temwatch-*.whl
	build/venv/bin/python -m hatchling build --target wheel --directory dist

# One lock for all supported versions of Python. The development lock comes first: the others hold the same versions. Only
# wheels, since pip builds a source with the newest tools; only pyvips has no wheel. (pip reads "--only-binary :all:" in a
# lock and forgets a "--no-binary" before it: the locks of the benchmarks have neither.)
COMPILE := uv pip compile --quiet --upgrade --universal --fork-strategy fewest --python-version 3.11 \
  --no-strip-extras --generate-hashes --only-binary :all: --no-header
lock: ## renew all locks from pyproject.toml (needs uv)
	$(COMPILE) pyproject.toml --extra alerts --extra dask --extra object-store --group dev --emit-build-options -o requirements-dev.lock
	$(COMPILE) pyproject.toml --extra alerts --extra dask --extra object-store -c requirements-dev.lock --emit-build-options -o requirements.lock
	$(COMPILE) --group build -c requirements-dev.lock --emit-build-options -o requirements-build.lock
	$(COMPILE) --group mutants -c requirements-dev.lock --emit-build-options -o requirements-mutants.lock
	$(COMPILE) --group bench --no-binary pyvips -c requirements-dev.lock -o benchmarks/requirements.lock
	$(COMPILE) --group bench-build -c benchmarks/requirements.lock -o benchmarks/requirements-build.lock

config-example: $(READY) ## write config.example.toml from the settings model
	$(BIN)/temwatch check-config --print-example > config.example.toml

clean: ## remove everything that the targets made
	rm -rf $(VENV) build dist demo-output .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
