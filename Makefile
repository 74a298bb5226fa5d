# Every command of the project. Needs Python 3.11 or newer, git and make; all else goes into .venv.
# SPDX-License-Identifier: Apache-2.0

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALLED := $(VENV)/.installed
CLIENTS := .venv-clients
DOCS := .venv-docs
TOOLS := .venv-tools

# LAPACK gets one small matrix after the other: its other threads would spin, and slow down what runs beside it.
export OPENBLAS_NUM_THREADS ?= 1

# Each worker begins with half of the tests in their order, so that tests of one file share what they compile.
WORKERS := -n 2 --dist worksteal

# What constraints.txt does not pin, the tools of the site and of releases, stays at the versions that the file has.
COMPILE := UV_CUSTOM_COMPILE_COMMAND='make lock' $(TOOLS)/bin/uv pip compile \
  --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --quiet

.DEFAULT_GOAL := help
.PHONY: help install pretrain test test-fast test-clients lint docs package bench mutants lock audit clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'ARGS="..." adds options to pretrain, the tests and bench; PYTHON=... chooses the interpreter of .venv.'

install: $(INSTALLED)  ## Make .venv with the library, the experiments and every tool (about 2 minutes, once)

pretrain: $(INSTALLED)  ## Pre-train the nano LLaMA on the embedded corpus
	$(RUN) experiments.corpus
	$(RUN) experiments.train nano $(ARGS)

test: $(INSTALLED)  ## Run the tests and the library's doctests; coverage must reach 95%
	$(RUN) pytest $(WORKERS) --doctest-modules --cov=optax_alphadecay --cov-fail-under=95 \
	  optax_alphadecay tests $(ARGS)

test-fast: $(INSTALLED)  ## Run the tests of the library but for the slow ones, in under 2 minutes
	$(RUN) pytest $(WORKERS) --doctest-modules -m 'not slow' \
	  optax_alphadecay tests/library tests/test_architecture.py $(ARGS)

test-clients: $(CLIENTS)/.installed  ## Test with the models and trainers of others, in an environment of its own
	$(CLIENTS)/bin/python -m pytest tests/clients -rs $(ARGS)

lint: $(INSTALLED)  ## Check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

docs: $(DOCS)/.installed  ## Build the site into build/site, in an environment of its own; any warning is an error
	$(DOCS)/bin/sphinx-build -c docs --fail-on-warning --keep-going --quiet --fresh-env . build/site $(ARGS)
	@echo 'Open build/site/index.html.'

# Of what is committed. The release workflow passes the tag too, as REF. The address may hold a token: it is not echoed.
REPOSITORY ?= $(shell git remote get-url origin 2>/dev/null)
REF ?= main

package: $(INSTALLED) $(TOOLS)/.installed  ## Build what PyPI gets into dist, and check it: metadata, README, tests in the sdist
	rm -rf build/package build/sdist dist && mkdir -p build/package build/sdist
	git archive HEAD | tar -x -C build/package
	@$(RUN) release.prepare build/package --repository '$(REPOSITORY)' --ref '$(REF)' --date "$$(git show -s --format=%cs)"
	$(TOOLS)/bin/cffconvert --validate --infile build/package/CITATION.cff
	$(TOOLS)/bin/python -m build --outdir dist build/package
	$(TOOLS)/bin/twine check --strict dist/*
	tar -xzf dist/*.tar.gz -C build/sdist --strip-components 1
	cd build/sdist && $(CURDIR)/$(RUN) pytest --collect-only -qq -p no:cacheprovider tests > ../collected.txt || \
	  { tail -n 40 ../collected.txt; exit 1; }

bench: $(INSTALLED)  ## Measure the library against its budgets
	$(RUN) benchmarks.run $(ARGS)

mutants: $(INSTALLED)  ## Break the library in 200 small ways, and count what the tests notice (half an hour; on a clean work tree)
	$(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt cosmic-ray==8.7.0
	$(RUN) cosmic_ray.cli init pyproject.toml mutants.sqlite
	$(RUN) cosmic_ray.tools.filters.operators_filter mutants.sqlite pyproject.toml
	$(RUN) benchmarks.mutants $(ARGS)

lock: $(TOOLS)/.installed  ## Write the three requirements.txt anew: pins with hashes, for every platform
	$(COMPILE) setup.cfg --constraints constraints.txt --extra dev --output-file requirements.txt
	$(COMPILE) setup.cfg --constraints constraints.txt --extra docs --output-file docs/requirements.txt
	$(COMPILE) release/requirements.in --output-file release/requirements.txt

audit: $(TOOLS)/.installed  ## Look for known vulnerabilities in the pinned packages
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.txt --requirement docs/requirements.txt

clean:  ## Remove .venv, caches and build outputs; data/ and runs/ stay
	rm -rf $(VENV) $(CLIENTS) $(DOCS) $(TOOLS) build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): setup.cfg pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "Python 3.11 or newer is needed, but $(PYTHON) is %d.%d. Name another: make install PYTHON=python3.11" \
	  % sys.version_info[:2])'
	@echo 'Installing into $(VENV): about 2 minutes, once.'
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Tunix and Levanter ask for versions that constraints.txt does not pin.
$(CLIENTS)/.installed: setup.cfg
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[clients]'
	@touch $@

$(DOCS)/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.txt
	@touch $@

$(TOOLS)/.installed: release/requirements.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r release/requirements.txt
	@touch $@
