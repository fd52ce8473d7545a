# `make quickstart` and `make test` need nothing but Python 3.11 to 3.13; each sets up .venv first, and is quick the second time.
# PYTHON=python3.12 chooses the interpreter; SLOW=1 adds the slow tests, GPU=1 those that need CUDA; T=tests/unit narrows.

export PYTHON
BIN := .venv/bin
T ?= tests
ifeq ($(SLOW)$(GPU),11)
MARKS := slow or not slow
else ifeq ($(SLOW),1)
MARKS := not gpu
else ifeq ($(GPU),1)
MARKS := not slow
else
MARKS := not slow and not gpu
endif

ifneq ($(FAULTS),1)
MARKS := ($(MARKS)) and not faults
endif
ifeq ($(wildcard /usr/lib/postgresql/*/bin/initdb)$(shell command -v initdb),)
MARKS := ($(MARKS)) and not postgres
endif
BENCHMARKS := store_open sampling memory pictures augmentation bridge_import checkpoints launchers

.PHONY: help quickstart test lint format bench setup simulators clean

help:
	@echo "make quickstart   demonstrations, a sweep, evaluation, tracking and a registered model, on this machine"
	@echo "make test         ruff, pyright, import-linter, pytest (SLOW=1 for all of it)"
	@echo "make lint | format | bench | setup | simulators | clean"

quickstart: setup
	@$(BIN)/understudy quickstart

test: lint
	$(BIN)/python -m pytest -m "$(MARKS)" $(T)

lint: simulators
	$(BIN)/ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: simulators
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python "benchmarks/$$name.py"; done

setup:
	@scripts/setup.sh

simulators:
	@scripts/setup.sh simulators

clean:
	rm -rf .venv build dist platform/*.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
