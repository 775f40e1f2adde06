# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
CLIP ?=
CAMERA ?= orbit-right
READER ?= all
COUNT ?= 10000
# The mini, stage by stage: where it is made, how many worlds, and steps of each stage where they shall differ from the recipes'.
MINI ?= mini
WORLDS ?= 512
HELD_OUT ?= 16
VAE_STEPS ?=
BASE_STEPS ?=
STEPS ?=
# PRECISION=float32 where the processor has no bfloat16 (a run says so).
PRECISION ?=
# One process of one thread for each core: faster than one of several, and a busy core slows it no more than it must.
PROCESSES ?= 2
TRAIN = $(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES) -m track2view train

.PHONY: setup demo test test-slow test-gpu lint bench bench-model bench-gpu fuzz data-demo evaluate-demo mini mini-smoke clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

demo: setup
	$(BIN)/python examples/01_demo.py $(if $(CLIP),$(CLIP) $(CAMERA))
	$(if $(CLIP),,$(BIN)/python examples/05_the_mini.py)

# One thread for each of two workers and all that they start: more would only wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

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

# Eight worlds by every method that needs no download: evaluate-demo/report.html.
evaluate-demo: setup
	$(BIN)/track2view evaluate evaluate-demo --static 4 --dynamic 4 --method truth copy shuffled-camera warp-tracked warp-exact mini-misled mini

# Every stage goes on where it was stopped; its best weights so far are under its model/.
mini: setup
	$(BIN)/track2view scenes clips $(MINI)/validation --split validation --count $(HELD_OUT) --workers 2
	$(BIN)/track2view scenes clips $(MINI)/train --count $(WORLDS) --workers 2
	$(TRAIN) mini-vae $(MINI)/train $(MINI)/vae --held-out $(MINI)/validation --resume $(addprefix --steps ,$(VAE_STEPS))
	$(BIN)/track2view model new mini $(MINI)/new --vae $(MINI)/vae/model/vae
	$(BIN)/track2view curate encode $(MINI)/validation --base $(MINI)/new/base
	$(BIN)/track2view curate encode $(MINI)/train --base $(MINI)/new/base
	$(TRAIN) mini-base $(MINI)/train $(MINI)/base --base $(MINI)/new/base --held-out $(MINI)/validation --resume $(addprefix --steps ,$(BASE_STEPS)) $(addprefix --precision ,$(PRECISION))
	$(TRAIN) mini $(MINI)/train $(MINI)/adapter --base $(MINI)/base/model/base --held-out $(MINI)/validation --resume $(addprefix --steps ,$(STEPS)) $(addprefix --precision ,$(PRECISION))

mini-smoke:
	$(MAKE) mini MINI=mini-smoke WORLDS=16 HELD_OUT=8 VAE_STEPS=60 BASE_STEPS=30 STEPS=20

clean:
	rm -rf .venv demo data-demo evaluate-demo out bench mini-smoke
