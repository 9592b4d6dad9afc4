# Two commands do everything on a fresh machine: `make demo` and `make test`.
# They need Python 3.11 or later and make; PYTHON chooses another interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test benchmarks model clean

demo: .venv/demo-ready
	$(BIN)/sae-explorer demo

test: .venv/test-ready
	$(BIN)/ruff format --check python tests tools
	$(BIN)/ruff check python tests tools
	$(BIN)/mypy
	$(BIN)/python -m pytest

benchmarks: .venv/test-ready
	$(BIN)/python tests/benchmarks/trees.py
	$(BIN)/python tests/benchmarks/tokens.py

# Builds the bundled model anew from WordNet, in about an hour on two cores.
model: .venv/test-ready
	$(BIN)/python tools/dictionary_model/build.py --work build/dictionary_model

# torch first and alone: an index of CPU builds, where pip is pointed at one, then serves it.
.venv/torch-ready: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; found " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	touch $@

.venv/demo-ready: .venv/torch-ready pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/test-ready: .venv/torch-ready pyproject.toml
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ .venv/demo-ready

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
