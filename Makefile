# Every command works on a fresh machine that has Python 3.11 or newer and make; `make help` lists them.

PYTHON    ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3 2>/dev/null))
VENV      := .venv
BIN       := $(VENV)/bin
WORKSPACE ?= workspace
ARGS      ?=
EXAMPLES  ?= 1000
SECONDS   ?= 60
KILLS     ?= 200
SUBMITS   ?= 10000
YEARS     ?= 10
TASKS     ?= 50000
MINUTES   ?= 60
SAMPLE    ?= 300
PIP       := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES   := src tests benchmarks examples

.DEFAULT_GOAL := help
.PHONY: help run test torture torture-short schedules trainings hostile lint types format check bench bench-training faults mutants clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run $(WORKSPACE)/thirdshift.yaml ## Train on generated puzzles in ./workspace until Ctrl-C (ARGS=--until-idle: ends by itself)
	$(BIN)/thirdshift --workspace $(WORKSPACE) up $(ARGS)

test: $(VENV)/.dev ## Run all tests (ARGS=tests/spec: some of them)
	$(BIN)/python tests/phases.py $(ARGS)

# The same tests as in `make test`, with more cases and with other ones at every run; EXAMPLES, SECONDS, KILLS,
# SUBMITS and TASKS say how many. Then MINUTES of thirdshift torture, which goes on where the last run was.
torture: $(VENV)/.dev ## Run the long forms of the crash and property tests (an hour and a half; EXAMPLES=10000: hours)
	THIRDSHIFT_EXAMPLES=$(EXAMPLES) THIRDSHIFT_SECONDS=$(SECONDS) THIRDSHIFT_KILLS=$(KILLS) THIRDSHIFT_SUBMITS=$(SUBMITS) \
	THIRDSHIFT_TASKS=$(TASKS) THIRDSHIFT_EVERY=1 \
		$(BIN)/python -m pytest tests/engines/test_sqlite_stateful.py tests/crash/test_crowd.py \
		tests/crash/test_statements.py tests/crash/test_kills.py tests/crash/test_unique.py tests/crash/test_transactions.py \
		tests/monitor/test_recount.py $(ARGS)
	$(BIN)/python tests/crash/freezer.py
	$(BIN)/thirdshift torture --minutes $(MINUTES)

torture-short: $(VENV)/.dev ## Run every harness of thirdshift torture for a while (three minutes)
	$(BIN)/thirdshift torture --minutes 3 --output "$$(mktemp -d)"

# Half an hour; YEARS says how many.
schedules: $(VENV)/.dev ## Run ten simulated years of schedules in 13 zones, with kills and clocks that are set
	THIRDSHIFT_YEARS=$(YEARS) $(BIN)/python -m pytest tests/crash/test_schedules.py $(ARGS)

hostile: $(VENV)/.dev ## Swap files of the inbox for links to a secret, for a minute, and try all other hostile files
	THIRDSHIFT_SWAPPING_S=60 $(BIN)/python -m pytest tests/apps/training/test_hostile_files.py $(ARGS)

# A quarter of an hour on a quiet machine; KILLS=1000, or THIRDSHIFT_SEED=n for other moments.
trainings: $(VENV)/.dev ## Kill trainings and the daemon 100 times at random moments, and damage 1000 checkpoints
	THIRDSHIFT_KILLS=$(or $(filter-out 200,$(KILLS)),100) THIRDSHIFT_FLIPS=1000 \
	THIRDSHIFT_DAEMON_KILLS=$(or $(filter-out 200,$(KILLS)),100) $(BIN)/python -m pytest \
		tests/apps/training/test_training_kills.py tests/apps/training/test_checkpoints.py \
		tests/apps/training/test_trainer.py tests/apps/training/test_daemon_kills.py --timeout=7200 $(ARGS)

lint: $(VENV)/.dev ## Check style and the direction of imports
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

check: lint types test ## All that CI checks

# Without redis-server, a C compiler or a package index (arq gets an environment of its own, at the first run, in the
# temporary folder) some figures are skipped, with the reason. `make -s bench ARGS=--markdown` prints
# tables for benchmarks/LOG.md, ARGS=--json everything; ARGS='--quick --alone drain' is a first look at one case.
bench: $(VENV)/.bench ## Measure the engine beside bare loops and other libraries (ten minutes; ARGS=--quick: two)
	$(BIN)/python benchmarks/engine.py $(ARGS)

# Each side has servers and files of its own. Without redis-server, strace or a package index some sides are skipped, with
# the reason. ARGS='kills --only rq' is one fault beside one library.
faults: $(VENV)/.bench ## Do to ourselves and to other libraries what breaks queues: kills, forks, poison (fifteen minutes)
	$(BIN)/python benchmarks/faults.py $(ARGS)

# It takes no processor time from anybody, and goes on where it was: minutes for ten mutants. SAMPLE= (nothing): all of
# them, many hours; ARGS=--again: those that survived once more.
mutants: $(VENV)/.mutants ## Change SAMPLE=300 things in the core and the SQLite engine, one at a time: do the tests notice?
	$(BIN)/python tests/mutants/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) $(ARGS)

bench-training: $(VENV)/.bench ## Measure training beside a bare loop and beside transformers' Trainer (two minutes)
	$(BIN)/python benchmarks/training.py $(ARGS)

clean: ## Remove the virtual environment and caches; workspaces stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(WORKSPACE)/thirdshift.yaml: | examples/demo-workspace.yaml
	mkdir -p -m 700 $(WORKSPACE)
	cp examples/demo-workspace.yaml $@

# The environments are made once and again when what they install changes.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or say PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; say PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing Thirdshift and torch into $(VENV); the first time this takes a minute or two ..."
	$(PIP) --editable '.[training]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[training,dev,bench]'
	@touch $@

$(VENV)/.mutants: $(VENV)/.dev
	$(PIP) --editable '.[training,dev,mutants]'
	@touch $@

# The power-loss tests record system calls, and the doctor's looks at a file that another machine serves. Where these
# programs cannot be had, the tests that need them are skipped and say so.
installed = { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq $(1); }
$(VENV)/.dev: $(VENV)/.run
	@command -v strace >/dev/null || $(call installed,strace) \
		|| echo "strace is missing and cannot be installed: the power-loss tests will be skipped"
	@{ command -v sshfs && test -x /usr/lib/openssh/sftp-server; } >/dev/null \
		|| $(call installed,sshfs openssh-sftp-server) \
		|| echo "sshfs is missing and cannot be installed: one test of the doctor will be skipped"
	$(PIP) --editable '.[training,dev]'
	@touch $@
