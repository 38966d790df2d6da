# The two that matter: `make run` starts the whole system, `make test` tests it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 4

.DEFAULT_GOAL := help
.PHONY: help run test lint format soak bench lock clean

help: ## list these
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/.local ## start the whole system on this machine; Ctrl-C ends it
	@exec $(BIN)/python run.py

test: $(VENV)/.dev ## all tests but the long rounds
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not soak"

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## bring the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(VENV)/.dev ## the long rounds
	INVIGIL_TEST_ROUNDS=200 $(BIN)/python -m pytest -m "soak or rounds"

bench: $(VENV)/.dev ## measure; takes half an hour on a quiet machine
	@$(MAKE) --no-print-directory $(VENV)/rivals/.bench || echo "measured without Celery, which could not be installed" >&2
	$(BIN)/python -m benchmarks

lock: $(VENV)/.dev ## resolve requirements/*.in anew
	for name in runtime gevent local dev bench; do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --upgrade \
		--output-file requirements/$$name.txt requirements/$$name.in; done

clean: ## remove what was installed and what `make run` has stored
	rm -rf $(VENV) var

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say which with make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv module is needed (Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/rivals/.bench: requirements/bench.txt
	@echo "installing requirements/bench.txt" >&2
	@$(PYTHON) -m venv $(VENV)/rivals
	@$(VENV)/rivals/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.%: requirements/%.txt $(VENV)/bin/python
	@echo "installing requirements/$*.txt" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
