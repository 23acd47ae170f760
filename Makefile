# make demo   the whole road on a small rendered world, in one command (REVIEW=me: you judge, not the script)
# make embedded   rebuild the small models that ship, from the rendered world; resumable, a minute is lost at most
# make reproduce MINUTES=60   the papers' claims in miniature: runs what is missing of the plan, writes docs/reproduction.md
# make test   every check: style, types, import rules, tests
# make release   wheel and source in dist/: built twice and equal, checked, installed and tried; release-full: with all dependencies anew
# make sbom    sbom.json: what a release is installed with, as CycloneDX; make audit asks PyPI for known vulnerabilities of it
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
	$(VENV)/python -m tinyworld.train encoder --until 2000
	$(VENV)/python -m tinyworld.train encoder
	$(VENV)/python -m tinyworld.train base --until 2500
	$(VENV)/python -m tinyworld.train base

reproduce: .venv/.ready
	$(VENV)/python -m benchmarks.reproduction --minutes $(or $(MINUTES),60)

release: check
	$(VENV)/python scripts/release.py

release-full: check
	$(VENV)/python scripts/release.py --full

sbom: .venv/.ready
	PYTHONPATH=. $(VENV)/python scripts/sbom.py dist/sbom.json

audit: .venv/.ready
	$(VENV)/python -m pip install -q pip-audit
	$(VENV)/python -m pip_audit -r constraints.txt --no-deps --disable-pip -s pypi --strict --progress-spinner off

clean:
	rm -rf .venv demo demo.local build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: help demo check test embedded reproduce release release-full sbom audit clean
