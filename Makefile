# Each environment is made once and completed when setup.py changes; the stamps inside it remember how far it is.

PYTHON ?= python3
VENV ?= .venv
BASE_VENV ?= .venv-base

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PIP_INSTALL = -m pip install --disable-pip-version-check
BIN = $(VENV)/bin
BASE_BIN = $(BASE_VENV)/bin
TINY = $(BASE_VENV)/tiny

.DEFAULT_GOAL := help
.PHONY: fuzz help demo test test-slow lint base-test docs clean

help:  ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.train  ## Install, then do the whole job on a generated shelf
	$(BIN)/edgebcnn demo

# By file, as many at once as a small machine has cores: tests of one file share what was trained for them.
test: lint  ## Install, then lint, types, import contract and tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.dev  ## The tests that take minutes
	$(BIN)/python -m pytest -m "slow and not timing" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m "slow and timing"

fuzz: $(VENV)/.dev  ## Mutate files and streams for SECONDS (1800), and look for what is no sentence
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),1800)

lint: $(VENV)/.dev  ## Lint, format, types and import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

base-test: $(VENV)/.dev $(BASE_VENV)/.created  ## A device without TensorFlow: install the base package, run a tiny bundle
	rm -rf build $(TINY)
	$(BASE_BIN)/python $(PIP_INSTALL) .
	! $(BASE_BIN)/python -c "import tensorflow" 2>/dev/null
	$(BIN)/python -m tests.tiny_bundle $(TINY)
	$(BASE_BIN)/edgebcnn --help
	$(BASE_BIN)/edgebcnn check --bundle $(TINY)/bundle
	$(BASE_BIN)/edgebcnn run --bundle $(TINY)/bundle --camera $(TINY)/photos
	$(BASE_BIN)/edgebcnn run --bundle $(TINY)/bundle --camera $(TINY)/shelf.avi --json | grep '"value": 1.0'
	$(BASE_BIN)/edgebcnn predict --bundle $(TINY)/bundle --labeled $(TINY)/photos
	$(BIN)/python -m tests.snippets README.md $(TINY)/readme
	cd $(TINY)/readme && $(abspath $(BASE_BIN))/python snippets.py
	code=0; $(BASE_BIN)/edgebcnn train || code=$$?; test $$code -eq 10
	@echo "base-test passed"

docs: $(VENV)/.docs  ## Build the docs site into site/; a broken link or a missing page fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## Remove both environments and what was built
	rm -rf $(VENV) $(BASE_VENV) build site *.egg-info

$(VENV)/.train: setup.py | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python $(PIP_INSTALL) -e '.[train,dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/python $(PIP_INSTALL) -e '.[docs]'
	touch $@

%/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "edgebcnn needs Python 3.10 or newer: make PYTHON=/path/to/python3.10" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot create environments: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	touch $@
