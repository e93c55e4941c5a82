# Everything a fresh machine needs: Python 3.11+ and make. `make demo` and `make test` set up .venv the first time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NEWEST := .venv-newest
export PIP_DISABLE_PIP_VERSION_CHECK := 1

LANGCHAIN := integrations/langchain

.PHONY: demo test nightly test-newest test-langchain mutants llama lint format lock release clean smollm2

demo: $(STAMP)
	@$(BIN)/kv-memory demo

# The suites here and in integrations/langchain: both, also when the first one fails
test: $(STAMP) llama
	@scripts/run_tests.sh $(VENV)

# Random histories of sessions and answers with tool calls, more than the tests read, and the conformance of every model:
# make nightly HISTORIES=20000 SEED=7
HISTORIES ?= 20000
ANSWERS ?= 10000
SEED ?= 7
nightly: $(STAMP)
	@$(BIN)/python -m tests.histories --histories $(HISTORIES) --seed $(SEED)
	@$(BIN)/python -m tests.histories --histories $$(($(HISTORIES) / 10)) --seed $(SEED) --hybrid
	@$(BIN)/python -m tests.tool_calls --texts $(ANSWERS) --seed $(SEED)
	@$(BIN)/python -m benchmarks.models

# The tests with the newest release of everything but torch and llama.cpp, in an environment beside the pinned one
test-newest:
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@echo "Bringing $(NEWEST) up to date ..."
	@$(NEWEST)/bin/pip install --quiet --upgrade pip
	@grep -E '^(torch|llama-cpp-python)==' constraints.txt > $(NEWEST)/constraints.txt
	@$(NEWEST)/bin/pip install --quiet --constraint $(NEWEST)/constraints.txt torch
	@$(NEWEST)/bin/pip install --quiet --constraint $(NEWEST)/constraints.txt --upgrade --upgrade-strategy eager \
		--editable '.[dev]' --editable '$(LANGCHAIN)[test]'
	@scripts/install_llama_cpp.sh $(NEWEST) $(NEWEST)/constraints.txt
	@$(NEWEST)/bin/pip list | grep -i -E '^(torch|transformers|tokenizers|peft|pydantic|langchain-core|langgraph|numpy) '
	@scripts/run_tests.sh $(NEWEST)

# Pins the newest release of everything in constraints.txt, but for what is pinned there by hand
lock:
	@$(PYTHON) scripts/lock.py

# Breaks the lines that the guarantee rests on, one at a time in a copy; fails if no test notices one of them
mutants: $(STAMP)
	@$(BIN)/python scripts/mutants.py

# The integration alone, in a copy of its packages with another langchain-core: make test-langchain CORE=1.8.2
test-langchain: $(STAMP)
	@test -n "$(CORE)" || { echo "Say which langchain-core: make test-langchain CORE=1.8.2"; exit 2; }
	@$(BIN)/pip install --quiet --target $(VENV)/langchain-core-$(CORE) --no-deps langchain-core==$(CORE)
	@cd $(LANGCHAIN) && PYTHONPATH=../../$(VENV)/langchain-core-$(CORE) ../../$(BIN)/python -m pytest -q -n 2 \
		--dist loadfile --benchmark-disable

# llama.cpp for GGUF models: built once, then kept in the user's cache; left out where it cannot be built
llama: $(STAMP)
	@scripts/install_llama_cpp.sh $(VENV)

# A small real model, 93 MB, for the tests that need one and for the examples: fetched once into the user's cache
smollm2: $(STAMP)
	@$(BIN)/python scripts/fetch_smollm2.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(LANGCHAIN) && MYPYPATH=../.. ../../$(BIN)/mypy --config-file ../../pyproject.toml tests
	$(BIN)/lint-imports --no-logo --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Wheels and source distributions of what is committed, in dist/, checked and tried in a clean environment
release: $(STAMP)
	@scripts/release.sh $(BIN)/python

$(STAMP): pyproject.toml constraints.txt $(LANGCHAIN)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kv_memory needs Python 3.11 or newer; call make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV), once (about a minute) ..."
	@# torch alone and pinned first: left to a dependency, pip would take its newest build with several GB of CUDA
	@$(BIN)/pip install --quiet --constraint constraints.txt torch setuptools
	@# built with the setuptools that is pinned: pip's own environments for a build would take the newest
	@$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation \
		--editable '.[dev]' --editable '$(LANGCHAIN)[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(NEWEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
