# Each target that needs an environment makes it first; where that is done already it costs nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
RECSYS := .venv/bin/recsys
PYTEST = $(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

LAKE ?= ./lake
INPUT ?=
FORMAT ?=
DATE ?=
CONF ?=
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
LOCK_ARGS ?=

conf_option = $(if $(CONF),--conf '$(CONF)')

.PHONY: help setup airflow-setup cluster-setup stores-setup peers-setup run test test-long test-cluster stress lint lint-fix bench mlflow lock clean clean-all

help: ## list these commands
	@echo "make TARGET [VARIABLE=value ...]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo "  one night on your own logs:"
	@echo "  make run INPUT=logs/2024-05-01 FORMAT=a_name_in_conf/formats DATE=2024-05-01 LAKE=./lake"

setup: ## make .venv: all packages, Horovod, Delta's jars (minutes at first, then nothing)
	@scripts/setup.sh

airflow-setup: ## make .venv-airflow: Airflow in an environment of its own
	@scripts/setup/side.sh airflow

cluster-setup: setup ## make .venv-cluster: an S3 server and Hadoop's mini cluster, to test and try
	@scripts/setup/cluster.sh

stores-setup: ## Redis and PostgreSQL from Debian, where they are missing: tests of exports need them
	@scripts/setup/stores.sh

peers-setup: ## make .venv-peers: RecTools, which a benchmark runs beside this project
	@scripts/setup/side.sh peers

run: setup ## the demo night into LAKE; with INPUT, FORMAT, DATE: that night (also LAKE, CONF)
ifeq ($(INPUT),)
	@$(RECSYS) demo --lake '$(LAKE)' $(conf_option)
else
	@[[ -n '$(FORMAT)' ]] || { echo "make run: INPUT is set but FORMAT is not; give FORMAT=name of a file in conf/formats, e.g. $$(ls conf/formats | sed -n 's/\.yaml$$//p' | head -1)" >&2; exit 2; }
	@[[ -n '$(DATE)' ]] || { echo "make run: INPUT is set but DATE is not; give the night's date, e.g. DATE=$$(date -u +%F)" >&2; exit 2; }
	@$(RECSYS) nightly --input '$(INPUT)' --format '$(FORMAT)' --date '$(DATE)' --lake '$(LAKE)' --summary $(conf_option)
endif

test: setup airflow-setup stores-setup ## tests of every part, in minutes; some: PYTEST_ARGS="-m core" or a path
	@$(PYTEST) $(PYTEST_ARGS)

test-long: setup airflow-setup stores-setup ## the others: kills, races, nights of every kind; half an hour
	@$(PYTEST) -m 'long and not stress' $(PYTEST_ARGS)

test-cluster: cluster-setup ## nights on a Spark cluster, with lakes in a folder, S3 and HDFS
	@$(PY) -m pytest -m cluster tests/cluster $(PYTEST_ARGS)

stress: setup ## many rounds of kills, races and nights in any order; hours
	@$(PY) -m pytest -m stress $(PYTEST_ARGS)

lint: setup ## ruff (rules, format) and mypy; 'make lint-fix' mends what can be mended
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

lint-fix: setup ## mend what ruff can mend
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: setup ## every published figure again
	@$(PY) -m benchmarks.run

mlflow: setup ## the web page of the runs and models in LAKE
	@$(RECSYS) mlflow-ui --lake '$(LAKE)'

lock: ## resolve the lock files again; newer versions: LOCK_ARGS=--upgrade
	@scripts/setup/lock.sh $(LOCK_ARGS)

clean: ## remove lake/, data/ and caches
	rm -rf lake data build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf spark-warehouse metastore_db derby.log mlruns
	find . -name __pycache__ -type d -not -path './.venv*' -not -path './.tools/*' -prune -exec rm -rf {} +

clean-all: clean ## also remove .venv, .venv-airflow, .venv-cluster, .venv-peers, .tools (the user's Horovod and jar cache stays)
	rm -rf .venv .venv-airflow .venv-cluster .venv-peers .tools
