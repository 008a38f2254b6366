# `make demo` and `make test` are all that a fresh machine needs; everything lands in .venv and runs/.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Test processes side by side; each uses one thread.
JOBS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo leaderboard test test-all bench lint
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,synth]'
	@touch $@

demo: setup
	$(BIN)/python tools/demo.py

leaderboard: setup
	$(BIN)/python examples/leaderboard/run.py --readme README.md

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

bench: setup
	$(BIN)/python tools/bench.py all

lint: setup
	$(BIN)/pre-commit run --all-files
