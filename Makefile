# make demo    rebuild a real index on real servers, and watch it
# make test    everything that must hold: style, types, import layers, all tests on real servers
# make check   the part of it that needs no server
# make bench   how fast, next to the ceiling and to others
# make clean   remove what these have made
#
# Each needs Python >= 3.11 and make, nothing else. PYTHON=python3.12 make test chooses another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

demo: $(VENV)/.local
	$(BIN)/reshelve demo $(ARGS)

# Each of these processes has servers of its own, and takes one test after the other: they mostly wait. What takes
# longest comes first, so that they end together.
TESTERS ?= 3
ALL_TESTS := tests/faults tests/acceptance tests/integration tests/model tests/unit

test: lint
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses $(TESTERS) --maxschedchunk 1 $(ALL_TESTS))

check: lint
	$(BIN)/python -m pytest tests/unit tests/model $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a second call installs nothing. The package itself is installed editable, so a changed source
# file needs no new installation.
$(VENV)/.local: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing reshelve[local] into $(VENV)"
	@$(PIP) install -c constraints.txt -e ".[local]"
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing reshelve[dev] into $(VENV)"
	@$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.local

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python >= 3.11, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) comes without venv or ensurepip: install them (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@
