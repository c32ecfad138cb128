# One environment for the demo, the tests and development; delete .venv to start afresh.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: help demo test fast matrix docs format clean

help:
	@echo "make demo    train on the embedded digits and write runs/demo/study.html"
	@echo "make test    every test, linter and type check"
	@echo "make fast    the tests for every change, without the slow tier"
	@echo "make matrix  the tests for every change, on each torch and Python (hours, gigabytes)"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make format  format the code"
	@echo "make clean   remove the environment and the caches"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(RUN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(VENV)/installed
	$(RUN)/advreg demo --out runs/demo --overwrite true

test: $(VENV)/installed
	$(RUN)/pytest -n auto --dist worksteal

fast: $(VENV)/installed
	$(RUN)/pytest -n auto --dist worksteal -m "not full"

matrix:
	$(PYTHON) -m tests.matrix $(if $(filter-out python3,$(PYTHON)),--python $(PYTHON))

docs: $(VENV)/installed
	$(RUN)/python tools/site_pages.py

format: $(VENV)/installed
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
