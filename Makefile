# `make quickstart` and `make test` need nothing but Python 3.11 or newer; `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
# Interpreters to try, in this order; `make test PYTHON=/path/to/python3.12` names one.
PYTHON ?= python3 python3.13 python3.12 python3.11

# Material, which holds mkdocs below 2, prints a banner about mkdocs 2 otherwise.
export NO_MKDOCS_2_WARNING := true

# One job at a time and in the order written, also under `make -j`: the first check that fails ends the run.
.NOTPARALLEL:
.PHONY: help quickstart test lint types floors spelling tests docs format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: $(VENV)/installed ## Train the quickstart recipe on real data: one model, one report
	@$(BIN)/mmssl train recipes/quickstart.yaml
	@run=$$(ls -td runs/quickstart*/ | head -n 1); printf '\nReport: %sreport.html\nModel:  %smodel\n' "$$run" "$$run"
	@printf '\nNext, with your own data (a folder or file of pictures, sounds, texts, series, a table, points):\n'
	@printf '  %s\n' 'source $(BIN)/activate' 'mmssl new MY_FOLDER           # says what it holds, and writes recipe.yaml' \
	    'mmssl train recipe.yaml        # an encoder and its report'

test: lint types floors spelling tests docs ## Run every check, as CI does
	@printf '\nAll checks passed.\n'

lint: $(VENV)/installed-dev ## Style: ruff
	@printf '\n== ruff ==\n'
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(VENV)/installed-dev ## Types: mypy --strict
	@printf '\n== mypy ==\n'
	@$(BIN)/mypy

floors: $(VENV)/installed-dev ## Which file may import which: import-linter
	@printf '\n== import-linter ==\n'
	@$(BIN)/lint-imports --no-logo

spelling: $(VENV)/installed-dev ## Spelling: codespell
	@printf '\n== codespell ==\n'
	@$(BIN)/codespell && echo 'No misspelling found.'

tests: $(VENV)/installed-dev ## Tests on two cores, shapes checked, warnings as errors: pytest
	@printf '\n== pytest ==\n'
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=2 --dist=worksteal

docs: $(VENV)/installed-dev ## Build the documentation in site/: mkdocs
	@printf '\n== docs ==\n'
	@$(BIN)/python docs/make_reference.py
	@$(BIN)/python docs/make_papers.py
	@$(BIN)/python docs/make_longer.py
	@$(BIN)/python docs/make_masks.py
	@$(BIN)/mkdocs build --strict --quiet && echo 'The documentation is in site/index.html.'

format: $(VENV)/installed-dev ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean: ## Remove caches and built documentation; .venv and runs stay
	@rm -rf site build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find mmssl modalities tests docs benchmarks -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written last and depends on what decides the installation, so a second run installs nothing.
$(VENV)/installed: setup.cfg pyproject.toml
	$(install)

$(VENV)/installed-dev: EXTRAS := [dev,docs]
$(VENV)/installed-dev: setup.cfg pyproject.toml
	$(install)
	@touch $@

# A first installation that was interrupted may look complete to pip, so it starts again from nothing.
define install
	@if [ -e $(VENV)/unfinished ]; then echo 'The last installation did not finish: starting again.'; rm -rf $(VENV); fi
	@if [ ! -e $(VENV)/installed ]; then mkdir -p $(VENV) && touch $(VENV)/unfinished; fi
	@$(make_venv)
	@echo 'Installing mmssl$(EXTRAS) in $(VENV): about 6 GB and one to five minutes the first time.'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.$(EXTRAS)'
	@rm -f $(VENV)/unfinished
	@touch $(VENV)/installed
endef

define make_venv
	[ -x $(BIN)/pip ] && exit 0; \
	for python in $(PYTHON); do \
	    if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Creating $(VENV) with $$($$python --version)."; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo 'mmssl needs Python 3.11 or newer with the venv module; none of these is: $(PYTHON).' >&2; \
	echo 'Install one, or name it: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3' >&2; \
	exit 1
endef
