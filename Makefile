# What a person types. Every target makes the environments it needs; nothing else has to be installed first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
unexport PYTHONDONTWRITEBYTECODE  # without compiled bytecode TensorFlow takes three times as long to import
export TF_CPP_MIN_LOG_LEVEL ?= 2

PIPELINE := .venv/pipeline/bin
SERVING := .venv/serving/bin
IMAGES ?=
SCALE ?= full

.DEFAULT_GOAL := help
.PHONY: help setup demo serve query test check lint types unit e2e bench benchmarks locks clean

help:  ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup:  ## Make both environments from their locks (the other targets do it by themselves)
	@requirements/install.sh pipeline
	@requirements/install.sh serving

lint: setup  ## Style, spelling and the API's rules
	$(PIPELINE)/ruff check .
	$(PIPELINE)/ruff format --check .
	$(PIPELINE)/codespell
	$(SERVING)/buf lint serving/protos

types: setup  ## mypy --strict on the packages
	$(PIPELINE)/mypy

locks: setup  ## Resolve the inputs in requirements/ anew
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --generate-hashes pipeline.in -o pipeline.lock
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --universal --generate-hashes serving.in -o serving.lock
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --universal --generate-hashes dev.in -c pipeline.lock -c serving.lock -o dev.lock
