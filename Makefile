# Everything a fresh clone needs: `make demo` runs the whole pipeline, `make test` tests it. Both install what they need.
#
#   make demo               miniature data, built-in models, report at runs/demo/report.html
#   make study              the demo's question with controls, 5 draws x 2 seeds and intervals: half an hour, runs/study/report.html
#   make test               the test suite          (make test PYTEST_ARGS='-k flows')
#   make lint               ruff, the import contracts, types (pyrefly)
#   make clean              remove .venv and caches (runs/ holds results: remove that yourself)
#
# PYTHON=/path/to/python3.12 chooses the interpreter that .venv is made from.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PYTHON ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
STUDY_ARGS ?=

# The first interpreter that works and is new enough (a name on PATH may be a broken shim).
define FIND_PYTHON
for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python); do \
  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
    if "$$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then echo "$$candidate"; exit 0; fi; \
    echo "$$candidate cannot make virtual environments: install its venv and pip packages (Debian: apt install python3-venv python3-pip)" >&2; exit 1; \
  fi; \
done; \
echo "Python 3.11 or newer is needed$(if $(PYTHON),; $(PYTHON) is not,): install it or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1
endef

.PHONY: help install demo study test lint clean

help:
	@sed -n '3,9s/^# \{0,1\}//p' Makefile

install: $(STAMP)

# Keyed to what decides the installed set: nothing is installed again until one of these two files changes.
$(STAMP): pyproject.toml constraints.txt
	@found=$$($(FIND_PYTHON)); \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	  echo "making $(VENV) with $$found"; "$$found" -m venv --clear $(VENV); \
	fi
	@echo "installing into $(VENV) (several GB with torch; minutes the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m flows regenerate --preset demo $(DEMO_ARGS)

study: $(STAMP)
	$(BIN)/python -m flows regenerate --preset study $(STUDY_ARGS)

test: $(STAMP)
	HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 $(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
