# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
CLIP ?=
CAMERA ?= orbit-right
READER ?= all
COUNT ?= 10000

.PHONY: setup demo test test-slow test-gpu lint bench bench-model bench-gpu fuzz data-demo clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

demo: setup
	$(BIN)/python examples/01_demo.py $(if $(CLIP),$(CLIP) $(CAMERA))

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -m slow -rP

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/run.py

bench-model: setup
	$(BIN)/python benchmarks/model.py

bench-gpu: setup
	$(BIN)/python benchmarks/model.py --cuda

fuzz: setup
	$(BIN)/python tests/fuzz.py --readers $(READER) --count $(COUNT) --keep-in bench/fuzz

data-demo: setup
	$(BIN)/track2view scenes make data-demo/data --count 4 --size 240 416 --workers 2
	$(BIN)/track2view scenes show data-demo/data --out data-demo/scenes
	$(BIN)/track2view curate run data-demo/data data-demo/curated --workers 2
	$(BIN)/track2view curate inspect data-demo/curated/samples --out data-demo/samples

clean:
	rm -rf .venv demo data-demo out bench
