# make quickstart   set up, then the main job end to end on this machine
# make test         set up for development, then every check
# make help         the rest

VENV   ?= .venv
BIN    := $(VENV)/bin
# On a machine without a GPU, a CPU build of PyTorch saves gigabytes: see pytorch.org, "Get started", CPU.
TORCH  ?= torch==2.13.0
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

.DEFAULT_GOAL := help
.PHONY: help quickstart test check unit docs clean

help: ## show this
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "error: no Python 3.11 or newer was found."; \
	  echo "hint: install one, or name it: make quickstart PYTHON=/path/to/python3.12"; exit 2; fi
	@echo "==> making a virtual environment in $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "hint: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }

$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	@echo "==> installing PyTorch ($(TORCH)); this is the largest download"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	@echo "==> installing Mojiang and what it needs"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@echo "==> installing what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

quickstart: $(VENV)/.core ## raw text to a served, gated model, in about ten minutes
	@echo "==> mojiang quickstart"
	@$(BIN)/mojiang quickstart $(ARGS)

test: check unit ## set up and run every check

check: $(VENV)/.test ## style, types, layers
	@echo "==> ruff"   && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "==> mypy"   && $(BIN)/mypy
	@echo "==> layers" && $(BIN)/lint-imports

unit: $(VENV)/.test ## the tests
	@echo "==> pytest"
	@$(BIN)/python -m pytest $(ARGS)

docs: $(VENV)/.core ## write CAPABILITIES.md and docs/reference again from the catalog
	@$(BIN)/python -m mojiang.cli.reference

clean: ## remove the environment (workspaces stay)
	rm -rf $(VENV)
