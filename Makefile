# One-line wrappers; `make setup` makes .venv, the other targets call it.
PYTHON ?= python3
BIN := .venv/bin
GPU := $(shell command -v nvidia-smi 2>/dev/null)
RUNTIME := $(if $(GPU),gpu,cpu)
LINE ?= solar-cells
DEMO_KEY := data/demo.key

.PHONY: setup test lint bench demo run report clean

setup: .venv/.complete

.venv/.complete: pyproject.toml .constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c .constraints.txt -e '.[workstation,$(RUNTIME),dev,demo]'
	touch $@

# TensorRT-RTX has wheels for Linux and Windows alone: elsewhere its tests are skipped.
test: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c .constraints.txt -e '.[ray,teacher,parquet]'
	-$(BIN)/pip install --quiet --disable-pip-version-check -c .constraints.txt -e '.[rtx]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

bench: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c .constraints.txt -e '.[bench,teacher]'
	$(BIN)/python -m tests.benchmarks

demo: setup data/solar-cells/labels.csv $(DEMO_KEY)
	$(BIN)/factory run solar-cells --key $(DEMO_KEY)

data/solar-cells/labels.csv: tests/demo/solar_cells.py
	$(BIN)/python tests/demo/solar_cells.py data/solar-cells

$(DEMO_KEY):
	$(BIN)/factory keys new $@
	@echo 'This is a demo key: never trust it on a station that inspects parts.'

run: setup
	$(BIN)/factory run $(LINE)

report: setup
	$(BIN)/factory report $(LINE)

clean:
	rm -rf .venv runs
