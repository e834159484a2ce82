# make demo       the whole road on real prose, from text to a kNN-LM       (10 minutes on 2 cores)
# make adapt      a model of before 1950 reads messages after 1990, by a second datastore   (10 to 15 minutes)
# make setup      .venv: the project, and all that its checks need
# make test       the default test suite
# make check      what CI runs: lint, types, the default suite and the slow one
# make peer       .peer: fairseq 0.12, for the tests that compare with it (a minute, 250 MB)
# make test-soak  hundreds of kills a stage, thousands of broken files a reader
# make mutants ROOM=fairseq/knn/search   breaks 60 places of a room, one at a time, and says which no test noticed

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
ROOM ?= fairseq/knn/search
SAMPLE ?= 60
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FAIRSEQ_PEER ?= .peer

.PHONY: setup demo adapt peer test test-slow test-soak lint mutants types check clean

setup: $(READY)

demo: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/knnlm/demo.sh

adapt: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/knnlm/adapt.sh

peer: $(READY)
	$(BIN)/python benchmarks/peer.py --shared-torch $(FAIRSEQ_PEER)

test: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadgroup

test-slow: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadgroup -m slow

test-soak: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadgroup -m soak

mutants: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python tests/mutation/mutants.py $(ROOM) --sample $(SAMPLE)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test test-slow

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info demo adapt
