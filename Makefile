# Everything a person does with a fresh clone. `make help` lists it.

VENV := $(or $(BLM_VENV),.venv)
PRESET ?= tiny
ARGS ?=
PYTEST_ARGS ?=
# The newest trained model of this folder's runs; for another: make serve CHECKPOINT=folder
CHECKPOINT ?= $(shell ls -td runs/*/stage2-*/model 2> /dev/null | head -n 1)

.DEFAULT_GOAL := help
.PHONY: help setup demo doctor serve test lint format typecheck lerobot-check bench-peers policy-peers clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## system packages and the Python environment; quick when nothing changed
	@bash cluster/setup/setup.sh

demo: setup ## the whole pipeline on this machine, to a report (PRESET=tiny, ARGS=...)
	$(VENV)/bin/blm run --preset $(PRESET) $(ARGS)

doctor: setup ## check every part of the installation
	$(VENV)/bin/blm doctor

serve: setup ## chat and actions over HTTP from the newest trained model (CHECKPOINT=..., ARGS=...)
	@test -n "$(CHECKPOINT)" || { echo "error: no trained model in runs/; run 'make demo', or name one: make serve CHECKPOINT=folder" >&2; exit 2; }
	$(VENV)/bin/blm serve --model $(CHECKPOINT) $(ARGS)

test: setup lint ## lint, then the test suite (PYTEST_ARGS='-k name')
	$(VENV)/bin/pytest -n 2 --no-loadscope-reorder $(PYTEST_ARGS)

lint: setup ## style, formatting and import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

format: setup ## mend style and formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

typecheck: setup ## static types
	$(VENV)/bin/mypy

lerobot-check: setup ## open a dataset of ours with the lerobot package, in an environment of its own
	bash cluster/setup/lerobot_env.sh
	$(VENV)/bin/pytest tests/test_lerobot.py

bench-peers: setup ## environments of the packages that `blm bench` measures beside ours
	bash cluster/setup/maniskill_env.sh
	bash cluster/setup/datasets_env.sh

policy-peers: setup ## vla-eval, openpi's client and schemathesis, with which the tests ask the servers
	bash cluster/setup/openpi_env.sh
	bash cluster/setup/vla_eval_env.sh
	bash cluster/setup/schemathesis_env.sh

clean: ## remove caches and build outputs; keeps .venv and runs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(wildcard actors cluster model pipelines serve tests) -name __pycache__ -type d -prune -exec rm -rf {} +
