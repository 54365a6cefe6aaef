# `make demo` and `make test` need only Python (>= 3.11) and make; the rest they install into .venv.
# Another interpreter: `make demo PYTHON=python3.11`. Another place for the packages: `VENV=...`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo
TRAINED := runs/train_demo
GENERATE := runs/demo_generate
# A file's tests share what they compile and run: one worker has them all. Long files go first.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# The pip that comes with Python 3.12 takes three times as long to choose versions, and to compile
# every module takes longer than to compile those that are imported, when they are. Then they must be
# kept: a program that compiles all that it imports starts in 13 s of processor time, not in 4.
PIP := python -m pip install --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE
# Packages as pip collects them, counted on one line.
COUNT := awk '/^(Collecting|Requirement already)/ {n++; printf "\r  %d packages", n; fflush()} END {print ""}'

.PHONY: imagenet-small test-all help demo train-demo demo-generate test lint format kernel-compile kernel-check compile-step bench gpu clean
help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: $(VENV)/.run  ## photos as Gaussians, then two minutes of fine-tuning: PHOTOS=DIR for your own
	@$(BIN)/gpstoken demo --output=$(DEMO) $(if $(PHOTOS),--photos='$(PHOTOS)')

train-demo: $(VENV)/.run  ## a tiny model from scratch: data, training, evaluation, report
	@echo "[1/3] preparing the data set"
	@$(BIN)/gpstoken prepare_data --demo --output data/demo
	@echo "[2/3] training the tiny configuration"
	@$(BIN)/python train.py --config=configs/tiny.py --workdir=$(TRAINED) --data.tfds_dir=data/demo
	@echo "[3/3] evaluating on photos it has not seen"
	@$(BIN)/python eval.py --checkpoint=$(TRAINED) --data.tfds_dir=data/demo --output=$(TRAINED)/eval

demo-generate: $(VENV)/.run  ## both stages of generation, trained on a few photos, and a grid of samples
	@echo "[1/9] photos: eight classes, one photo each, its right part held out"
	@$(BIN)/gpstoken prepare_data --demo --output data/demo
	@$(BIN)/python scripts/demo_classes.py --output=$(GENERATE)/photos
	@echo "[2/9] tokenizer: that of make train-demo"
	@$(BIN)/python train.py --config=configs/tiny.py --workdir=$(TRAINED) --data.tfds_dir=data/demo
	@echo "[3/9] tokens of random crops"
	@$(BIN)/gpstoken encode --checkpoint=$(TRAINED) --data.folder=$(GENERATE)/photos --split=train \
	  --passes=96 --crop_scale=0.3,1 --output=$(GENERATE)/tokens
	@$(BIN)/gpstoken encode --checkpoint=$(TRAINED) --data.folder=$(GENERATE)/photos --split=val \
	  --passes=16 --crop_scale=0.3,1 --output=$(GENERATE)/val_tokens
	@echo "[4/9] their layouts"
	@$(BIN)/gpstoken prepare_layouts --tokens=$(GENERATE)/tokens \
	  --output=$(GENERATE)/layouts.safetensors
	@$(BIN)/gpstoken prepare_layouts --tokens=$(GENERATE)/val_tokens \
	  --output=$(GENERATE)/val_layouts.safetensors
	@echo "[5/9] stage 1: a network that draws layouts"
	@$(BIN)/python train.py --config=configs/layout_tree.py:tiny --workdir=$(GENERATE)/stage1 \
	  --config.data.layouts=$(GENERATE)/layouts.safetensors \
	  --config.data.val_layouts=$(GENERATE)/val_layouts.safetensors
	@echo "[6/9] stage 2: a network that draws the texture on them"
	@$(BIN)/python train.py --config=configs/sit_tiny.py --workdir=$(GENERATE)/stage2 \
	  --config.data.tokens=$(GENERATE)/tokens --config.data.val_tokens=$(GENERATE)/val_tokens
	@echo "[7/9] stage 1 beside the layouts of held-out crops"
	@$(BIN)/python scripts/compare_layouts.py --training=$(GENERATE)/layouts.safetensors \
	  --real=$(GENERATE)/val_layouts.safetensors --tree=$(GENERATE)/stage1 \
	  --output=$(GENERATE)/comparison
	@echo "[8/9] new images of each class"
	@$(BIN)/gpstoken generate --generator=$(GENERATE)/stage2 --tokenizer=$(TRAINED) \
	  --layouts=$(GENERATE)/stage1 --output=$(GENERATE)/samples
	@echo "[9/9] are the classes found again? reconstructions tell how well at all"
	@$(BIN)/gpstoken decode --checkpoint=$(TRAINED) --tokens=$(GENERATE)/tokens \
	  --output=$(GENERATE)/decoded
	@$(BIN)/gpstoken decode --checkpoint=$(TRAINED) --tokens=$(GENERATE)/val_tokens \
	  --output=$(GENERATE)/val_decoded
	@$(BIN)/python scripts/check_classes.py --real=$(GENERATE)/decoded/train \
	  --images=held_out=$(GENERATE)/val_decoded/val,samples=$(GENERATE)/samples \
	  --output=$(GENERATE)/classes.json
	@echo "samples: $(GENERATE)/samples/grid.png"

imagenet-small: $(VENV)/.run  ## the commands of docs/imagenet.md, on a few photos
	@PYTHON=$(BIN)/python scripts/imagenet_small.sh

test: $(VENV)/.dev lint  ## lint and the tests, but for those that are marked as slow
	@$(BIN)/python -m pytest -q $(PARALLEL) --durations=20 -m "not slow"
	@echo "left out: tests marked slow, which repeat this with longer or larger programs; make test-all has them"

test-all: $(VENV)/.dev lint  ## lint and all tests
	@$(BIN)/python -m pytest -q $(PARALLEL) --durations=20 --fuzz=2000

lint: $(VENV)/.dev  ## formatting and static checks
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: $(VENV)/.dev  ## format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

kernel-compile: $(VENV)-kernel-compile/.done  ## compile the GPU kernels for six GPUs, without one; or TARGETS=
	@$(VENV)-kernel-compile/bin/python -m tests.ptx_emulator.kernel_compile \
	  $(if $(TARGETS),--target $(TARGETS))
	@$(VENV)-kernel-compile/bin/python -m tests.ptx_emulator.check --few

kernel-check: $(VENV)-kernel-compile/.done  ## run the compiled GPU kernels in an emulator, all cases
	@failed=; for target in sm_90a sm_80; do for model in exact hardware; do \
	  $(VENV)-kernel-compile/bin/python -m tests.ptx_emulator.check \
	    --target $$target --model $$model || failed=1; \
	done; done; \
	$(VENV)-kernel-compile/bin/python -m tests.ptx_emulator.transformed || failed=1; \
	test -z "$$failed"

compile-step: $(VENV)-compile-step/.done  ## compile whole steps for an H100 without one: memory, FLOPs, launches; hours
	@$(VENV)-compile-step/bin/python scripts/compile_step.py --program encode decode sit_sample \
	  --batch 16 --dtype bfloat16
	@$(VENV)-compile-step/bin/python scripts/compile_step.py --program train

bench: $(VENV)/.run  ## time every implementation of splat on this machine
	@$(BIN)/python -m tests.kernels.bench

gpu: $(if $(GPU_PYTHON),,$(VENV)/.cuda)  ## check and time everything on this machine's GPU, 8 minutes
	@$(or $(GPU_PYTHON),$(BIN)/python) scripts/gpu.py

clean:  ## remove the environment and the demo's results
	rm -rf $(VENV) $(VENV)-kernel-compile $(VENV)-compile-step $(DEMO) $(TRAINED) $(GENERATE) data/demo

$(VENV)/.python: .python-version
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gpstoken_jax needs Python >= 3.11; $$($(PYTHON) --version) is too old." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/$(PIP) -q --upgrade pip
	@touch $@

$(VENV)/.run: requirements.txt pyproject.toml $(VENV)/.python
	@echo "installing requirements.txt"
	@$(BIN)/$(PIP) -e . | $(COUNT)
	@touch $@

$(VENV)/.dev: requirements.txt pyproject.toml $(VENV)/.python
	@echo "installing requirements.txt and what tests need"
	@$(BIN)/$(PIP) -e '.[dev]' | $(COUNT)
	@touch $@

$(VENV)/.cuda: requirements.txt pyproject.toml $(VENV)/.python
	@echo "installing requirements.txt, JAX for CUDA and what the kernels' suite needs"
	@$(BIN)/$(PIP) -e '.[cuda]' pytest hypothesis | $(COUNT)
	@touch $@

$(VENV)-kernel-compile/.done: kernels/requirements-compile.txt .python-version
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "compiling the kernels needs Python >= 3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)-kernel-compile
	@echo "installing kernels/requirements-compile.txt"
	@$(VENV)-kernel-compile/bin/$(PIP) --no-deps \
	  -r kernels/requirements-compile.txt -e . | $(COUNT)
	@touch $@

$(VENV)-compile-step/.done: kernels/requirements-compile.txt requirements.txt .python-version
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "compiling for a GPU needs Python >= 3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)-compile-step
	@echo "installing requirements.txt and kernels/requirements-compile.txt"
	@$(VENV)-compile-step/bin/$(PIP) -e . | $(COUNT)
	@$(VENV)-compile-step/bin/$(PIP) --no-deps \
	  -r kernels/requirements-compile.txt | $(COUNT)
	@touch $@
