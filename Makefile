# Everything a user or a developer types. Needs Python 3.11 or newer and make; the rest is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo

.PHONY: demo test test-slow test-exhaustive lint types setup clean

demo: setup
	$(BIN)/avbench demo --out $(DEMO)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile -m "not slow"

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile -m "slow and not exhaustive"

test-exhaustive: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile -m exhaustive

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "avbench needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
