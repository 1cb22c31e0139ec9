# `make demo` and `make test` are all a new user needs; both install what is missing first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint format codiesp bench clean

demo: $(VENV)/.base
	$(BIN)/icdtune demo --out runs

test: lint
	$(BIN)/pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# CodiEsp English and Spanish: needs the data (examples/codiesp.yaml says where).
codiesp: $(VENV)/.base
	$(BIN)/icdtune study examples/codiesp.yaml --out runs

# Speed and memory of each room; figures that docs quote are kept in benchmarks/results/.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/evaluate.py > benchmarks/results/evaluate.json
	$(BIN)/python benchmarks/synthetic.py --out benchmarks/results/synthetic.json
	$(BIN)/python benchmarks/study.py --out benchmarks/results/study.json

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing icdtune into $(VENV) (once, about a minute)"
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing icdtune and its development tools into $(VENV) (once, about a minute)"
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $(VENV)/.base $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
