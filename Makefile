# Two commands do everything on a fresh machine: `make demo` and `make test`; `make help` lists the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
# One OpenMP/BLAS thread: the kernels are serial, and idle thread pools only disturb each other.
export OMP_NUM_THREADS ?= 1

# Processes of the demo: kernels are compiled and tasks are played side by side, with the same results.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() or 1))')
# Interpreters on which `make dist` tries the wheel.
PYTHONS ?= $(PYTHON)

.PHONY: help install demo test docs dist coverage lint format hooks newcomer bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed-core  ## create .venv and install virtgym

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "virtgym needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-core
	$(BIN)/pip install --quiet -c constraints.txt -e '.[rl,sweep,tune,fetch,power,dev]'
	@touch $@

# Every task of the suite by rules, managers, OR-Tools and the agent that ships; one score and one page.
demo: $(VENV)/.installed-core  ## play the suite at its small size, print the report's path
	$(BIN)/virtgym benchmark suite=virtgym-1 seeds=[0,1] workers=$(WORKERS) out=$(RUN)

# Kernels are compiled once, before the workers of the suite start and would all compile them.
test: $(VENV)/.installed-dev  ## install the development extras, run the whole suite
	$(BIN)/python -m virtgym.experiments.bench.warm
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# Lines of kernels count as not run: Numba compiles them.
$(VENV)/.installed-docs: $(VENV)/.installed-core
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(VENV)/.installed-docs $(VENV)/.installed-dev  ## run what the documents say, build their site into site/; dead links are errors
	$(BIN)/python -m pytest -q -m "docs or not docs" tests/test_docs.py tests/test_training_loop.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Each interpreter gets an environment of its own, outside the checkout, with what the wheel asks for and nothing else.
dist: $(BIN)/python  ## build sdist and wheel into dist/, try the wheel on every interpreter of PYTHONS
	rm -rf dist build
	$(BIN)/pip install --quiet build
	$(BIN)/python -m build --outdir dist
	@for python in $(PYTHONS); do \
	  scratch=$$(mktemp -d) && $$python -m venv $$scratch/venv && \
	  $$scratch/venv/bin/pip install --quiet -c constraints.txt dist/*.whl && \
	  (cd $$scratch && unset PYTHONPATH && venv/bin/virtgym --version && venv/bin/virtgym list > /dev/null && \
	    venv/bin/virtgym benchmark scenario=small scenario.horizon_s=3600 'policies=[static,dpm,suite_agent]' out=run > log && \
	    test -s run/report.html && du -sh venv | cut -f1 && $$python --version) || exit 1; \
	  rm -rf $$scratch; \
	done

coverage: $(VENV)/.installed-dev  ## the suite with a coverage report in htmlcov/
	$(BIN)/python -m virtgym.experiments.bench.warm
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=html --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## ruff and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## sort imports, format, fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: $(VENV)/.installed-dev  ## run lint, spelling and file checks before every commit
	$(BIN)/pre-commit install

newcomer:  ## follow README literally in a fresh clone with an empty home; NEWCOMER_ARGS=--help
	$(PYTHON) experiments/bench/newcomer.py $(NEWCOMER_ARGS)

bench: $(VENV)/.installed-dev  ## speed as ratios against plain Python
	$(BIN)/python -m virtgym.experiments.bench $(BENCH_ARGS)
	$(BIN)/python -m pytest -q experiments/bench/benchmarks.py --benchmark-group-by=group --benchmark-columns=min,median,ops

clean:  ## remove .venv and everything built
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
