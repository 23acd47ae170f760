# make demo   the whole road on a small rendered world, in one command (REVIEW=me: you judge, not the script)
# make embedded   rebuild the small models that ship, from the rendered world; resumable, a minute is lost at most
# make test   every check: style, types, import rules, tests
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv/bin
DEMO ?= demo
SEED ?= 0
COUNT ?= 40

help:
	@sed -n 's/^# make/make/p' Makefile

.venv/.ready: pyproject.toml constraints.txt scripts/setup.sh
	@scripts/setup.sh

.venv/.ready-test: .venv/.ready
	@scripts/setup.sh with-browser && touch $@

demo: .venv/.ready
	@scripts/demo.sh "$(DEMO)" "$(SEED)" "$(COUNT)" "$(REVIEW)"

check: .venv/.ready-test
	$(VENV)/ruff check .
	$(VENV)/ruff format --check -q .
	$(VENV)/lint-imports --no-logo
	$(VENV)/mypy

# Three workers for two cores: tests that start Ray mostly wait for it, and come first (tests/conftest.py).
test: check
	$(VENV)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Four steps, each resumable by the same command; one thread each, so two of them may run side by side.
embedded: .venv/.ready
	$(VENV)/python -m tinyworld.train codec
	$(VENV)/python -m tinyworld.train oracles
	$(VENV)/python -m tinyworld.train encoder
	$(VENV)/python -m tinyworld.train base

clean:
	rm -rf .venv demo demo.local build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help demo check test embedded clean
