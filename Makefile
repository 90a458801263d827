# Everything a newcomer types. Nothing is needed but Python 3.11 or later and make; what is installed goes into .venv.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: api autobahn browser help run test faults cocktail coverage check tables clean

help:  ## Say what there is.
	@grep -E '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

run: .venv/ready  ## Start the server with its own Postgres and Valkey.
	@exec $(BIN)/looprooms serve

test: .venv/dev  ## Run all tests.
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup -m "not nodes"
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m nodes

faults: .venv/dev  ## Run the fault tests alone: real processes, killed and starved.
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m nodes

cocktail: .venv/dev  ## Mix all faults at random for ten minutes.
	$(BIN)/python -m pytest -q -s tests/nodes/test_cocktail.py --cocktail-seconds 600

autobahn: .venv/dev  ## Run the Autobahn|Testsuite where there is one; see tests/autobahn.py.
	$(BIN)/python -m tests.autobahn

browser: .venv/dev  ## Use our pages as people do, in a real browser, where there is one; see tests/browser.
	$(BIN)/python -m tests.browser

api: .venv/dev .venv-api/ready  ## Ask every route for all that its description says, and see that the answers keep to it.
	$(BIN)/python -m tests.api

coverage: .venv/dev  ## Measure the contract and the hub, branch by branch, each module by its own tests.
	$(BIN)/python -m tests.covered -n 2

check: .venv/dev .venv-api/ready  ## What CI calls: format, lint, types, tests, and the description of HTTP.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test
	$(BIN)/python -m tests.api --quick

tables: .venv/dev  ## Write the README's tables anew from the code.
	$(BIN)/python -m tests.readme

clean:  ## Remove what was installed and cached; the data folder stays.
	rm -rf .venv .venv-api .mypy_cache .pytest_cache .ruff_cache *.egg-info

# The project itself is installed without its dependencies, which the lock files name with their hashes.
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked dependencies into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements-dev.lock .venv/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.venv-api/ready: requirements-api.lock
	@test -x .venv-api/bin/python || $(PYTHON) -m venv .venv-api
	@.venv-api/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-api.lock
	@touch $@
