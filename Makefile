# `make quickstart` and `make test` need nothing but Python 3.11 to 3.13; each sets up .venv first, and is quick the second time.
# PYTHON=python3.12 chooses the interpreter. For tests: SLOW=1 adds the slow ones, FAULTS=1 those that break clusters (with SLOW=1),
# GPU=1 those that need CUDA; T=tests/unit narrows; N=4 sets the number of processes (N=0: this one alone); ARGS goes to pytest.

export PYTHON
# Images of containers set it, and each process would compile all that it imports anew: half of its start.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
T ?= tests
N ?= auto
ARGS ?=

LEFT_OUT := $(if $(filter 1,$(SLOW)),,slow) $(if $(filter 1,$(GPU)),,gpu) $(if $(filter 1,$(FAULTS)),,faults) \
	$(if $(wildcard /usr/lib/postgresql/*/bin/initdb)$(shell command -v initdb),,postgres)
MARKS := $(if $(strip $(LEFT_OUT)),not ($(subst $() , or ,$(strip $(LEFT_OUT)))))
PYTEST := $(BIN)/python -m pytest -n $(N) -m "$(MARKS)" --durations=40 --durations-min=1
BENCHMARKS := store_open sampling memory pictures augmentation bridge_import checkpoints launchers online sweep

.PHONY: help quickstart check test coverage format bench setup simulators clean

help:
	@echo "make quickstart   demonstrations, a sweep, evaluation, tracking and a registered model, on this machine"
	@echo "make check        ruff, pyright, import-linter"
	@echo "make test         the quick tests (SLOW=1 FAULTS=1 for all of them)"
	@echo "make format | coverage | bench | setup | simulators | clean"

quickstart: setup
	@$(BIN)/understudy quickstart

check: simulators
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

test: simulators
	$(PYTEST) $(ARGS) $(T)

coverage: simulators
	$(PYTEST) $(addprefix --cov=,understudy envs trainables search_spaces cluster dashboards) --cov-report=term:skip-covered $(ARGS) $(T)

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
