# `make demo` and `make test` need only Python (>= 3.11) and make; the rest they install into .venv.
# Another interpreter: `make demo PYTHON=python3.11`. Another place for the packages: `VENV=...`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# Packages as pip collects them, counted on one line.
COUNT := awk '/^(Collecting|Requirement already)/ {n++; printf "\r  %d packages", n; fflush()} END {print ""}'

.PHONY: help demo test lint format kernel-compile bench clean
help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: $(VENV)/.run  ## data, training, evaluation and report of a tiny model, on the CPU in minutes
	@echo "[1/3] preparing the data set"
	@$(BIN)/python prepare_data.py --demo --output data/demo
	@echo "[2/3] training the tiny configuration"
	@$(BIN)/python train.py --config=configs/tiny.py --workdir=$(DEMO) --data.tfds_dir=data/demo
	@echo "[3/3] evaluating on photos it has not seen"
	@$(BIN)/python eval.py --checkpoint=$(DEMO) --data.tfds_dir=data/demo --output=$(DEMO)/eval

test: $(VENV)/.dev lint  ## lint and all tests
	@$(BIN)/python -m pytest -q -n 2 --durations=10

lint: $(VENV)/.dev  ## formatting and static checks
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: $(VENV)/.dev  ## format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

kernel-compile: $(VENV)-kernel-compile/.done  ## compile the GPU kernels for H100 and A100, without one
	@$(VENV)-kernel-compile/bin/python scripts/kernel_compile.py

bench: $(VENV)/.run  ## time every implementation of splat on this machine
	@$(BIN)/python -m kernels.bench

clean:  ## remove the environment and the demo's results
	rm -rf $(VENV) $(VENV)-kernel-compile $(DEMO) data/demo

$(VENV)/.python: .python-version
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gpstoken_jax needs Python >= 3.11; $$($(PYTHON) --version) is too old." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: requirements.txt $(VENV)/.python
	@echo "installing requirements.txt"
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt | $(COUNT)
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt $(VENV)/.python
	@echo "installing requirements-dev.txt"
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt | $(COUNT)
	@touch $@

$(VENV)-kernel-compile/.done: requirements-kernel-compile.txt .python-version
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "compiling the kernels needs Python >= 3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)-kernel-compile
	@echo "installing requirements-kernel-compile.txt"
	@$(VENV)-kernel-compile/bin/python -m pip install --disable-pip-version-check --no-deps \
	  -r requirements-kernel-compile.txt | $(COUNT)
	@touch $@
