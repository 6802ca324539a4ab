# Everything a person needs on a fresh machine with Python 3.11 or newer, git and make. `make` alone lists it.
#
#   PYTHON       the interpreter that .venv is made with (only used when there is no .venv yet)
#   VENV         where the environment is; another one for another Python: make test VENV=.venv-3.13 PYTHON=python3.13
#   PYTEST_ARGS  more words for pytest: make test PYTEST_ARGS="-k imap -x"
#   PYTEST_PROCESSES  how many files of tests run at once; most tests wait. 0 for one after the other, in one process
#   BENCH_VENV   where the environment of the benchmarks is, with libraries that nothing else here needs
#   BENCH_ARGS   more words for the benchmarks: make bench BENCH_ARGS="--rounds 5"
#   SECONDS      how long the storm lasts: make chaos SECONDS=600
#   SEED         of the storm, to have the same again; any if it is not given
#   CHAOS_ARGS   more words for the storm: make chaos CHAOS_ARGS="--kinds prefork gevent"

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
PYTEST_PROCESSES ?= 3
BENCH_VENV ?= .venv-bench
BENCH_ARGS ?=
SECONDS ?= 60
SEED ?=
CHAOS_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test chaos bench docs lint format types layers clean help

demo: $(VENV)/.core ## fetch and parse Python's own standard library with every pool (under a minute)
	$(BIN)/poolmagic demo

test: $(VENV)/.test ## run the tests (within twenty minutes)
	$(BIN)/python -m pytest --numprocesses $(PYTEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

chaos: $(VENV)/.test ## kill, stop and interrupt pools at work for SECONDS, and look what is lost or left behind
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

bench: ## measure poolmagic and its peers, and write docs/benchmarks.md (a quarter of an hour)
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) $(BENCH_VENV)/.bench
	$(BENCH_VENV)/bin/python -m tests.benchmarks --json build/bench.json --update --page docs/benchmarks.md $(BENCH_ARGS)

docs: $(VENV)/.docs ## build the site into docs/_build; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

lint: $(VENV)/.test ## check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test ## format the code, and mend what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.test ## check the types with mypy --strict
	$(BIN)/python -m mypy

layers: $(VENV)/.test ## check who imports whom
	$(BIN)/lint-imports

clean: ## remove the environments, caches and the built site
	rm -rf .venv .venv-* docs/_build docs/jupyter_execute docs/notebooks build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find poolmagic tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The environment. One stamp for each set of dependencies: `make demo` must not wait for JupyterLab. Each stamp depends
# on the one before it, so that `make -j` never runs two pips in one environment.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "poolmagic needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": name another one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/.docs: $(VENV)/.test
	$(PIP) install --editable '.[test,docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) install --editable '.[bench]'
	@touch $@
