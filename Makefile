# A fresh clone needs Python >= 3.11 with venv, and make; on Windows also the tools of Git for Windows (sh, rm, touch).
# Everything else is installed into .venv.
VENV := .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif
INSTALLED := build/installed
# The tests of "make test"; the other tests have targets of their own.
HERE := -m "not interop and not serving and not distributed and not hostile"
# All tests of a module run in one worker, so that what they have in common, such as a built bundle, is made once.
TWO_WORKERS := --numprocesses 2 --dist loadscope

.PHONY: install web demo test coverage test-serving test-hostile test-distributed test-interop lint lint-dependencies format dist clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[benchmark,demo,distributed,serve]" --group dev
	touch $@

# Fine-tunes two teachers, merges them, and compares: about 6 minutes on 2 cores.
demo: install
	$(BIN)/python -m examples.demo

# Exported teachers and the server's page are tested in onnxruntime-web; where there is no npm, these tests are skipped.
web: tests/web/node_modules

tests/web/node_modules: tests/web/package.json
	if command -v npm > /dev/null; then npm install --prefix tests/web --ignore-scripts --no-audit --no-fund --silent; fi

test: install web
	$(BIN)/python -m pytest $(TWO_WORKERS) $(HERE)

# The same, and which lines it ran: half as long again.
coverage: install web
	$(BIN)/python -m pytest $(TWO_WORKERS) --cov --cov-report=term $(HERE)

# A running server: the clients that people have, its page in Chromium, overload and faults, fuzzing. Where there is no
# Chromium or no npm registry, the tests of the page are skipped.
test-serving: install web
	$(BIN)/python -m pytest tests/serving $(TWO_WORKERS) -m serving -rs

# Attacks on a server of 512 MiB, crash images of a disk whose power went, full disks, writers that are killed at every
# step, damaged and hostile files. What needs root, loop devices or Linux is skipped elsewhere.
test-hostile: install
	$(BIN)/python -m pytest tests/hostile $(TWO_WORKERS) -m hostile -rs

# Workers, nodes and drivers that are killed, on a Ray cluster of several nodes on loopback, and training on two processes.
test-distributed: install
	$(BIN)/python -m pytest tests/distributed -m distributed -rs

# Bundles in Optimum, transformers.js, OpenVINO and plain onnxruntime: a few minutes, and 1.5 GB in .venv-interop that stay
# for the next time (more where pip's torch is CUDA's). Where a registry cannot be reached, its runtime is skipped.
test-interop: install
	$(BIN)/python -m pytest tests/interop -rs

# mypy and import-linter read a copy that is installed as a user would have it, since the folders cli, exporters and
# models are imported as amalgam_edge.cli and so on.
lint: install lint-dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target $(INSTALLED) .
	cd $(INSTALLED) && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p amalgam_edge
	cd $(INSTALLED) && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

# Every import is a declared dependency: of the package by its extras; of tests, benchmarks and examples by the groups
# too; and of the parts that an extra is for, by that extra alone.
DEPTRY := $(BIN)/deptry --no-ansi
lint-dependencies: install
	$(DEPTRY) amalgam_edge cli exporters models
	$(DEPTRY) --ignore DEP002,DEP004 tests benchmarks examples
	$(DEPTRY) --ignore DEP002 --optional-dependencies-dev-groups train,serve,distributed,benchmark,demo \
		amalgam_edge/runtime amalgam_edge/metrics
	$(DEPTRY) --ignore DEP002 --optional-dependencies-dev-groups train,distributed,benchmark,demo \
		amalgam_edge/runtime amalgam_edge/metrics amalgam_edge/browser amalgam_edge/serving
	$(DEPTRY) --ignore DEP002 --optional-dependencies-dev-groups serve,distributed,benchmark,demo \
		--extend-exclude amalgam_edge/serving --extend-exclude amalgam_edge/browser \
		--extend-exclude amalgam_edge/scoring/ray --extend-exclude amalgam_edge/evaluation/peers \
		amalgam_edge cli exporters models

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The sdist and the wheel, as they would be uploaded. tests/test_packaging.py checks what is in them.
dist: install
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf $(VENV) .venv-interop tests/web/node_modules build dist runs .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
