# `make` prints what can be made: the words after ## beside each target.

SHELL := bash
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
ROOM ?= fairseq/knn/search
SAMPLE ?= 60
FAIRSEQ_PEER ?= .peer
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRAS)
# The recipes need less than the checks do, and use what is there.
RECIPES_READY := $(firstword $(wildcard $(READY)) $(VENV)/.ready-plots)
HF_READY := $(firstword $(wildcard $(READY)) $(VENV)/.ready-hf,gguf,plots)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pytest keeps the assertions that it has rewritten, five seconds' work in each process, as bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-hf adapt setup test test-slow test-soak lint types check peer mutants clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(RECIPES_READY)  ## the whole road on real prose, from text to a kNN-LM (4 to 6 minutes on 2 cores)
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/knnlm/demo.sh

demo-hf: $(HF_READY)  ## a Hugging Face model, and neighbours from your own code: CODE=DIR, or this project's (5 to 15 minutes)
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/knnlm/demo_hf.sh

adapt: $(RECIPES_READY)  ## a model of before 1950 reads messages after 1990, by a second datastore (10 to 15 minutes)
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/knnlm/adapt.sh

setup: $(READY)  ## .venv: the project, and all that its checks need

test: $(READY)  ## the default test suite
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m slow

test-soak: $(READY)  ## hundreds of kills a stage, thousands of broken files a reader
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m soak

lint: $(READY)  ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## type annotations
	$(BIN)/mypy

check: lint types test test-slow  ## what CI runs: lint, types, the default suite and the slow one

peer: $(READY)  ## .peer: fairseq 0.12, for the tests that compare with it (a minute, 250 MB)
	$(BIN)/python benchmarks/peer.py --shared-torch $(FAIRSEQ_PEER)

mutants: $(READY)  ## breaks SAMPLE=60 places of ROOM=fairseq/knn/search, one at a time; says which no test noticed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python tests/mutation/mutants.py $(ROOM) --sample $(SAMPLE)

clean:  ## remove .venv, and what builds and recipes have written
	rm -rf $(VENV) build dist *.egg-info demo demo-hf demo-hf-wikitext adapt

$(VENV)/.ready-%: pyproject.toml constraints.txt
	@echo "installing the project into $(VENV): about a minute; pip's output is in $(VENV)/install.log"
	@$(PYTHON) -m venv $(VENV)
	@. examples/knnlm/steps.sh; logged $(VENV)/install.log $(BIN)/python -m pip install --constraint constraints.txt \
	    --editable '.[$*]' || { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@
