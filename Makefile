# The two commands: `make demo` records a desktop, `make test` passes the tests.
# Everything they need is installed by them: system packages (as root on Debian or Ubuntu),
# Python packages into .venv, the servers of `lucid stack` into a cache outside of the checkout.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Files of tests that run at a time, each with servers of its own; most of their time is waiting.
WORKERS ?= 2

include packages.mk
include containers.mk
include bench.mk

.PHONY: help
help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Lucid needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing Python packages into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: system-packages $(STAMP) ## install everything that is needed

.PHONY: demo
demo: setup ## record, verify and export a live desktop; KEEP=1 leaves it running
	@$(BIN)/python demo/demo.py $(if $(KEEP),--keep)

.PHONY: demo-rdp
demo-rdp: setup ## record a real desktop that a real client works on (as root)
	@$(BIN)/python demo/demo_rdp.py

.PHONY: test
test: setup ## run all tests; the few that fail are run again alone, and named
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile || \
		{ [ $$? -eq 1 ] && $(BIN)/python -m tests.again; }

.PHONY: lint
lint: setup ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: coverage
coverage: setup ## run all tests and show line and branch coverage, subprocesses included
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --include='schemas/*' --fail-under=95
	@$(BIN)/coverage report --fail-under=90

.PHONY: faults
faults: setup ## kill, cut and fill things by SEED for MINUTES, then compare every byte
	@$(BIN)/python -m tests.faults --seed $(or $(SEED),1) --minutes $(or $(MINUTES),10) \
		--pause $(or $(PAUSE),4)

.PHONY: faults-rdp
faults-rdp: setup ## kill the RDP services by SEED for MINUTES while desktops are recorded (as root)
	@$(BIN)/python -m tests.faults.rdp --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5)

.PHONY: docs
docs: setup ## write docs/openapi.json and docs/asyncapi.json from the code
	@$(BIN)/python docs/make.py

.PHONY: lock
lock: $(STAMP) ## make the lock files anew from pyproject.toml
	@$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --allow-unsafe \
		--strip-extras pyproject.toml -o requirements.lock
	@$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --allow-unsafe \
		--strip-extras --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

.PHONY: clean
clean: ## remove what the demo, tests and benches left, not the environment
	@rm -rf demo-out bench/out faults-out .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
