PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo demo-seeds test test-slow lint format docs clean

demo: $(READY)  ## the whole method on a CPU, in minutes
	$(BIN)/leyden run recipes/tiny.toml --out runs/tiny

demo-seeds: $(READY)  ## the demo over untouched seeds: the README's table
	$(BIN)/python examples/tiny/seeds.py runs/seeds

test: $(READY)
	$(BIN)/pytest -q -m "not slow" -n 2

test-slow: $(READY)
	$(BIN)/pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/pyrefly check -c labs/theory/pyrefly.toml

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## write the generated reference pages
	$(BIN)/python docs/generate.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs
