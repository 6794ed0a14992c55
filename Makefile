# Every target makes what it needs itself: a virtual environment in .venv with the package in it.
# A second start finds it there and begins in seconds.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
DEMO := demo
TESTS := -m "not slow" -n 2

# A machine with an NVIDIA driver, and every machine but Linux, takes torch as the index offers it; a CUDA build
# that is installed already stays. Elsewhere the tested CPU build is enough: from a local wheel where pip knows one,
# else from the index of PyTorch.
define CHOOSE_TORCH
if command -v nvidia-smi >/dev/null 2>&1 || [ "$$(uname -s)" != Linux ] || \
	$(BIN)/python -c 'import torch, sys; sys.exit(torch.version.cuda is None)' 2>/dev/null; \
then grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
else cp constraints.txt $(VENV)/constraints.txt; \
	if [ -z "$$PIP_FIND_LINKS" ] && ! $(BIN)/pip config list 2>/dev/null | grep -q find-links; \
	then export PIP_EXTRA_INDEX_URL="$$PIP_EXTRA_INDEX_URL https://download.pytorch.org/whl/cpu"; fi; \
fi; \
export PIP_CONSTRAINT=$(VENV)/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
endef

.PHONY: help demo test lint slow bench bench-peers clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.installed ## train the default model for two minutes, and say how to talk to it
	@if [ -d runs/$(DEMO) ]; then $(BIN)/holonomy train --resume $(DEMO); \
	else $(BIN)/holonomy train lior --run $(DEMO); fi
	@echo "(the command lives in $(BIN); 'source $(BIN)/activate' puts it on your path)"

test: lint ## lint, then run the test suite
	OMP_NUM_THREADS=1 $(BIN)/pytest -q $(TESTS)

slow: $(VENV)/.installed-dev ## run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m slow

lint: $(VENV)/.installed-dev ## style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

# The options of the tests would hold every tensor to its annotated shape, which costs time.
bench: $(VENV)/.installed-dev ## speed of updates and generation, CPU time
	$(BIN)/pytest benchmarks -q -o addopts=--import-mode=importlib --benchmark-columns=median,iqr,rounds --benchmark-sort=name

bench-peers: $(VENV)/.installed-peers ## the same beside public peers, which are installed first
	$(BIN)/pytest benchmarks -q -W ignore -o addopts=--import-mode=importlib --benchmark-columns=median,iqr,rounds --benchmark-sort=name
	$(BIN)/python -W ignore benchmarks/accuracy.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache .benchmarks

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "holonomy needs Python 3.11 or newer; none was found on the path" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(CHOOSE_TORCH); $(BIN)/pip install --quiet -e '.[chat]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(CHOOSE_TORCH); $(BIN)/pip install --quiet -e '.[chat,dev]'
	@touch $@

$(VENV)/.installed-peers: $(VENV)/.installed-dev
	@$(CHOOSE_TORCH); $(BIN)/pip install --quiet -e '.[chat,dev,peers]'
	@touch $@
