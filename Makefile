# The two commands are `make run` and `make test`; both set themselves up on a machine with Python 3.11 and make.
SEED ?= 0
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do command -v $$python > /dev/null && $$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null && echo $$python && break; done)
BIN = .venv/bin
TOGETHER = -n logical --maxprocesses=4
READY = .venv/ready

.PHONY: setup run test test-all bench browser coverage lint types clean

setup: $(READY)

$(READY): pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 was found on the PATH; install one, or call make PYTHON=/path/to/python."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[text,dev]'
	@touch $(READY)

run: $(READY)
	$(BIN)/confreg-train run.name=default/seed=$(SEED) seed=$(SEED) run.replace=true

test: $(READY)
	$(BIN)/python -m pytest -q $(TOGETHER) -m 'not heavy' tests

test-all: $(READY)
	$(BIN)/python -m pytest -q -m heavy tests

# Minutes long, and worth something only on a machine with nothing else to do.
bench: $(READY)
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.throughput --clock cpu
	$(BIN)/python -m benchmarks.compiled
	$(BIN)/python -m benchmarks.ablation
	$(BIN)/python -m benchmarks.watching trainer.progress_bar=false trainer.model_summary=false

coverage: $(READY)
	$(BIN)/python -m pytest -q $(TOGETHER) -m 'not heavy' tests --cov=confreg --cov=callbacks --cov=experiments --cov-report=term:skip-covered --cov-fail-under=90

# What the tests of the page open it with; they are skipped where it is missing.
browser:
	@if command -v chromium > /dev/null && command -v chromedriver > /dev/null; then echo "chromium and chromedriver are there."; \
	elif command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; then apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver; \
	else echo "chromium or chromedriver is missing and cannot be installed without apt-get and root; install both, e.g. sudo apt-get install chromium chromium-driver."; exit 2; fi

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
