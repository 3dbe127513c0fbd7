# A fresh clone needs python3 >= 3.11 with venv, and make. Everything else comes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := build/installed
# The tests of "make test": the others have targets of their own.
HERE := -m "not interop and not serving and not distributed"

.PHONY: install web demo test coverage test-serving test-distributed test-interop lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,serve,distributed]" --group dev
	touch $@

# Fine-tunes two teachers, merges them, and compares: about 6 minutes on 2 cores.
demo: install
	$(BIN)/python -m examples.demo

# Exported teachers and the server's page are tested in onnxruntime-web; where there is no npm, these tests are skipped.
web: tests/web/node_modules

tests/web/node_modules: tests/web/package.json
	if command -v npm > /dev/null; then npm install --prefix tests/web --ignore-scripts --no-audit --no-fund --silent; fi

test: install web
	$(BIN)/python -m pytest --numprocesses 2 $(HERE)

# The same, and which lines it ran: half as long again.
coverage: install web
	$(BIN)/python -m pytest --numprocesses 2 --cov --cov-report=term $(HERE)

# A running server: the clients that people have, its page in Chromium, overload and faults, fuzzing. Where there is no
# Chromium or no npm registry, the tests of the page are skipped.
test-serving: install web
	$(BIN)/python -m pytest tests/serving --numprocesses 2 -m serving -rs

# Workers, nodes and drivers that are killed, on a Ray cluster of several nodes on loopback, and training on two processes.
test-distributed: install
	$(BIN)/python -m pytest tests/distributed -m distributed -rs

# Bundles in Optimum, transformers.js, OpenVINO and plain onnxruntime: a few minutes, and 1.5 GB in .venv-interop that stay
# for the next time (more where pip's torch is CUDA's). Where a registry cannot be reached, its runtime is skipped.
test-interop: install
	$(BIN)/python -m pytest tests/interop -rs

# mypy and import-linter read a copy that is installed as a user would have it, since the folders cli, exporters and
# models are imported as amalgam_edge.cli and so on.
lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target $(INSTALLED) .
	cd $(INSTALLED) && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p amalgam_edge
	cd $(INSTALLED) && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-interop tests/web/node_modules build runs .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
