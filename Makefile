# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
# One OpenMP/BLAS thread: the kernels are serial, and idle thread pools only disturb each other.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint bench clean install

install: $(VENV)/.installed-core

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "virtgym needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-core
	$(BIN)/pip install --quiet -c constraints.txt -e '.[rl,sweep,dev]'
	@touch $@

RULES := first_fit,best_fit,worst_fit,balance_fit,best_host_emptier_node,first_host_emptier_node,move_to_front,$\
dot_product,norm_based,random

# Operating a cluster by rules, then placing VMs by rules and by the agent that ships; one report of both.
demo: $(VENV)/.installed-core
	$(BIN)/virtgym benchmark scenario=demo seeds=[0,1,2,3,4] out=$(RUN)/cluster report=false
	$(BIN)/virtgym benchmark scenario=demo_placement policies=[$(RULES),demo_agent] seeds=[0,1,2,3,4] \
	  out=$(RUN)/placement report=false
	@$(BIN)/virtgym report $(RUN)/cluster $(RUN)/placement out=$(RUN)

# Kernels are compiled once, before the workers of the suite start and would all compile them.
test: $(VENV)/.installed-dev
	$(BIN)/python -m virtgym.experiments.bench.warm
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m virtgym.experiments.bench $(BENCH_ARGS)
	$(BIN)/python -m pytest -q experiments/bench/benchmarks.py --benchmark-group-by=group --benchmark-columns=min,median,ops

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
