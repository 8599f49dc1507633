# Two commands on a fresh machine: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
DEMO ?= demo-run

.PHONY: help demo test test-all lint docs bench image clean

help:
	@echo "make demo      install, then train a small network on videos made on the spot, and show losses, checkpoints and report"
	@echo "make test      install, then the default tests (under 3 minutes)"
	@echo "make test-all  the slow tests too"
	@echo "make lint      ruff, mypy --strict, import rules"
	@echo "make docs      write conf/KEYS.md (every key of a conf), conf/MODELS.md (every network) and the README's table of networks"
	@echo "make bench     measure, as ratios against named peers"
	@echo "make image     build the container image with buildah or docker"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[trainer,video,dev]'
	@touch $@

# Each command is what a user types; runs, records and data stay below $(DEMO).
demo: export XDG_STATE_HOME := $(abspath $(DEMO))/state
demo: export XDG_CONFIG_HOME := $(abspath $(DEMO))/config
demo: export PATH := $(BIN):$(PATH)
demo: $(VENV)/.installed
	rm -rf $(DEMO)
	vidjobs volume create demo-data
	python -m trainer.synthetic --train 320 --test 80 --min-size 24 --alone --out $(DEMO)/state/vidjobs/local/volumes/demo-data/TinyVIRAT
	vidjobs submit train conf/quickstart.yaml --cluster local --watch
	vidjobs logs --grep 'val  Loss'
	vidjobs logs --plot $(DEMO)/losses.png
	vidjobs submit eval conf/quickstart.yaml --cluster local --from quickstart-train@best --watch
	vidjobs fetch predictions -o $(DEMO)/eval
	vidjobs fetch checkpoints quickstart-train --best -o $(DEMO)/train
	vidjobs report quickstart-train quickstart-eval -o $(DEMO)
	vidjobs status
	@echo "the report is $$(ls $(DEMO)/report-*.html), the curves $(DEMO)/losses.png"

# Two files at a time; torch's own threads would only be in each other's way.
test test-all: export OMP_NUM_THREADS := 1

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not (cluster or gpu or bench)"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	$(BIN)/python tests/contract/conf_keys.py
	$(BIN)/python tests/contract/model_table.py

bench: $(VENV)/.installed
	$(BIN)/python -m pytest -q -s -m bench tests/bench/bench_*.py

image:
	docker/build.sh

clean:
	rm -rf $(DEMO) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
