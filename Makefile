# `make demo` and `make test` work on a fresh clone with Python 3.11 and make; each says what it does.
# What is installed is remembered in .venv and installed again only when pyproject.toml or constraints.txt change.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# of `make soak`
SEEDS ?= 20000
FIRST ?= 0

.PHONY: help demo test check bench soak notebooks format clean

help:
	@echo "make demo    set up .venv and train a small network that loses a worker and comes back"
	@echo "make test    set up .venv and run format check, lint, types, import rules and all tests"
	@echo "make bench   set up .venv and print the benchmark table, ours beside torchrun"
	@echo "make soak    simulate 20,000 jobs under faults, over all cores, and fail if a promise breaks;"
	@echo "             SEEDS=N and FIRST=N choose the seeds; takes some 10 minutes on two cores"
	@echo "make notebooks  execute the notebooks and write what they show"
	@echo "make check   the part of 'make test' that runs no test"
	@echo "make format  format the code"
	@echo "make clean   remove .venv and caches"

$(INSTALLED): pyproject.toml constraints.txt
	@echo "==> setting up $(VENV) with $(PYTHON) (once; takes some minutes, most of it torch)"
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Rallypoint needs Python 3.11 or later, this is " + sys.version.split()[0] + "; run: make PYTHON=/path/to/python3.11")'
	@test -x $(RUN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

demo: $(INSTALLED)
	@echo "==> rally demo"
	@$(RUN)/rally demo

check: $(INSTALLED)
	@echo "==> format check (ruff format)"
	@$(RUN)/ruff format --check --quiet .
	@echo "==> lint (ruff)"
	@$(RUN)/ruff check --quiet .
	@echo "==> types (mypy --strict)"
	@$(RUN)/mypy
	@echo "==> import rules (import-linter)"
	@$(RUN)/lint-imports --no-cache > $(VENV)/import-rules.txt || { cat $(VENV)/import-rules.txt; exit 1; }

test: check
	@echo "==> tests (pytest)"
	@$(RUN)/python -m pytest -n 3 --dist worksteal

bench: $(INSTALLED)
	@$(RUN)/python -m tests.bench

soak: $(INSTALLED)
	@echo "==> $(SEEDS) simulated jobs from seed $(FIRST) on, then a fault at each store operation of each node"
	@$(RUN)/python -m simulator.explore --seeds $(SEEDS) --first $(FIRST)

notebooks: $(INSTALLED)
	@echo "==> executing notebooks/*.py (some minutes)"
	@$(RUN)/python -m notebooks.render

format: $(INSTALLED)
	@$(RUN)/ruff format .
	@$(RUN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
