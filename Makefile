# Two commands: `make demo` and `make test`. Both set up .venv first; PYTHON=... chooses the interpreter.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs lock clean
BIN := .venv/bin
export PYTHON
export DO_NOT_TRACK = 1
export DVC_NO_ANALYTICS = 1
export MLFLOW_DISABLE_TELEMETRY = true

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: ## make .venv from requirements.lock and check the system
	@./bootstrap.sh

demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: setup ## from nothing to a measured policy: the pipeline on params.yaml (ARGS="--train.steps=2000" changes it)
	@$(BIN)/python -m flows.pipeline --config_path=params.yaml $(ARGS)

test: setup ## the whole test suite (ARGS="-k name" selects)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: setup ## lint, format, types, import arrows, links of the docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mkdocs build --strict --quiet --site-dir "$$(mktemp -d)"
	@$(BIN)/python -m pytest tests/test_docs.py

format: setup ## apply ruff's fixes and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup ## serve the documentation on http://127.0.0.1:8000
	@$(BIN)/mkdocs serve

lock: setup ## resolve requirements.lock anew from pyproject.toml
	@./lock.sh

clean: ## remove what demo and checks made (outputs, DVC's local store), not .venv
	@rm -rf outputs data dvcstore hub .pytest_cache .mypy_cache .ruff_cache site
