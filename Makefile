# Everything a developer types; each target sets up what is missing first.
PYTHON := .venv/bin/python
# Bytecode lies in .venv: none in the tree, and each daemon of a test starts sooner.
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup test check demo bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Debian packages, .venv, and .rig for LEVELS=nfs (nothing to do = nothing done)
	@.ci/setup

test: setup ## all tests; LEVELS="unit engine" for some, ARGS="-k drift -x" for pytest
	$(if $(LEVELS),$(PYTHON) -m pytest $(addprefix tests/,$(LEVELS)),.ci/test) $(ARGS)

check: setup ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

demo: setup ## a sample lake from a local S3 server, mounted, read, measured (2 minutes, 2 GB)
	$(PYTHON) -m tests.rig.demo

bench: ## the scenarios of bench/, one JSON result each (root, more than an hour; ARGS="--repeat 3 --only find")
	@.ci/setup bench/packages.txt
	$(PYTHON) -m bench $(ARGS)

clean: ## what setup, tests and tools have made here
	rm -rf .venv .rig .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
