# `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long quick check bench hostile serve clean
.PHONY: checked-types checked-besides tested-besides

BIN := .venv/bin
NPM := PATH="$(CURDIR)/.venv/bin:$$PATH" npm --silent --prefix sdk/typescript
FUZZ_SECONDS ?= 10
PYTEST ?= $(BIN)/pytest --numprocesses 3 --dist loadscope

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what serving needs: Debian packages, .venv, kernel, guest
	@tools/setup run

demo: setup ## Build two services, run each in a microVM, call them, show their logs
	@$(BIN)/python examples/demo.py

test: ## Run everything: checks, all tests, the guest's fuzzer
	@tools/setup test
	@$(MAKE) --jobs=2 --output-sync=target checked-types tested-besides
	@$(PYTEST)

test-long: ## The same for hours: all in random order, far more examples, long fuzzing
	@$(MAKE) test FUZZ_SECONDS=1800 PYTEST="CAKEWORK_TEST_EXAMPLES=50 $(PYTEST) -p randomly --timeout=7200"

quick: ## Check and test what a change touches, in under three minutes (BASE=<commit>: since then)
	@tools/setup test
	@PATH="$(CURDIR)/.venv/bin:$$PATH" tools/quick.py $(BASE)

check: ## Check lint, formatting, types, and that the C code compiles without a warning
	@tools/setup check
	@$(MAKE) --jobs=2 --output-sync=target checked-types checked-besides

checked-types:
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

checked-besides:
	@$(NPM) run check
	@$(MAKE) --silent -C guest

tested-besides: checked-besides
	@$(MAKE) --silent -C guest test
	@$(MAKE) --silent -C guest fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)
	@$(NPM) test

bench: ## Compare starts, forks and memory of microVMs with docker, podman and plain QEMU; measure functions
	@tools/setup bench
	@benchmarks/run
	@$(BIN)/python -m benchmarks.functions

hostile: ## Measure how long one account's calls take while another does its worst
	@tools/setup test
	@$(BIN)/python -m benchmarks.neighbours

serve: setup ## Serve the API on this machine, keeping everything in ./cakework-data
	@CAKEWORK_DATA_DIR="$${CAKEWORK_DATA_DIR:-$(CURDIR)/cakework-data}" $(BIN)/cakework up

clean: ## Remove what was built here (not .venv, not cakework-data)
	@rm -rf .build .pytest_cache .ruff_cache .hypothesis .schemathesis
