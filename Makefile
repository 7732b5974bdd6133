# Two commands matter: `make demo` and `make test`. Each works on a fresh machine with python3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test lint study bench
help:
	@echo "make demo     run the whole pipeline on a simulated trial over real Sentinel-2 pixels -> runs/demo/report.html"
	@echo "make test     style, types, import contract and the whole test suite"
	@echo "make study    the long simulations behind docs/validity.md, docs/simulation.md and docs/beyond.md (hours; resumable)"
	@echo "make bench    benchmarks against their rivals, the quick form"
	@echo "make install  only the environment (.venv, from requirements.lock), the weights and the demo scene"

install: .venv/.installed
.venv/.installed: requirements.lock pyproject.toml
	@echo "Installing into .venv (a few minutes the first time: PyTorch is large) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock --editable .
	$(BIN)/eo-cate download
	@touch $@

demo: install
	$(BIN)/python pipelines/demo.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

study: install
	$(BIN)/python pipelines/beyond_seeds.py
	$(BIN)/python pipelines/validity_study.py
	$(BIN)/python pipelines/simulation_study.py

bench: install
	for file in benchmarks/rate.py benchmarks/search.py benchmarks/forest.py benchmarks/applicability.py benchmarks/embed.py benchmarks/extrapolate.py benchmarks/fetch.py; do $(BIN)/python $$file --quick || exit 1; done

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
