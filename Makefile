# What CI runs, by name. `make hello` and `make check` are the two commands of the README.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: hello check lint types test test-integration test-clusters torch bench lock clean

# Their tests need a scheduler, a daemon or a login node that is up; each says how to bring it up where it is not.
CLUSTERS := $(wildcard $(addprefix tests/integration/,slurm docker kubernetes ssh mixed))

hello: $(READY)  ## Install, and run the first experiment.
	$(BIN)/python flows/hello_world.py

check: lint types test test-integration  ## Everything that has to hold.

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

test: $(READY)  ## The part without clusters, browsers or wheels; under three minutes.
	$(BIN)/python -m pytest tests/unit tests/conformance tests/golden

test-integration: $(READY)  ## Real experiments on this machine, the UI in a browser, the README, the built wheel.
	$(BIN)/python -m pytest tests/integration $(addprefix --ignore=,$(CLUSTERS)) tests/flows tests/ui tests/docs tests/wheel

test-clusters: $(READY)  ## Slurm, Docker, Kubernetes and SSH, whichever are up; the others are skipped.
	$(BIN)/python -m pytest $(CLUSTERS)

torch: $(READY)  ## PyTorch, for the tests that need it; without it they are skipped.
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0

bench: $(READY)  ## Measures the README's figures, side by side; takes some minutes.
	$(BIN)/python tests/benchmarks/run.py

lock: $(READY)  ## Resolve the dependencies anew.
	$(BIN)/uv pip compile --universal --generate-hashes --no-strip-extras --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links --python-version 3.10 --all-extras pyproject.toml -o requirements.lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
