# Two commands on a fresh machine: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
DEMO ?= demo-run

.PHONY: help demo test test-all lint bench image clean

help:
	@echo "make demo      install, then train a small network on videos made on the spot, and show losses, checkpoints and report"
	@echo "make test      install, then the default tests (under 3 minutes)"
	@echo "make test-all  the slow tests too"
	@echo "make lint      ruff, mypy --strict, import rules"
	@echo "make bench     measure, as ratios against named peers"
	@echo "make image     build the container image with buildah or docker"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[trainer,video,dev]'
	@touch $@

demo: $(VENV)/.installed
	@PATH="$(BIN):$$PATH" sh conf/demo.sh "$(DEMO)"

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m "not (cluster or gpu or bench)"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python -m pytest -q -s -m bench tests/bench/bench_*.py

image:
	docker/build.sh

clean:
	rm -rf $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
