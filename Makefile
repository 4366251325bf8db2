# What a person types. Every target makes the environments it needs; nothing else has to be installed first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
# Without compiled bytecode TensorFlow takes three times as long to import.
unexport PYTHONDONTWRITEBYTECODE
export TF_CPP_MIN_LOG_LEVEL ?= 2

PIPELINE := .venv/pipeline/bin
SERVING := .venv/serving/bin
ROOT ?= demo/serving
IMAGES ?=
IMAGE ?=
NAME ?=
SCALE ?= full
# Of pytest. The longest groups of tests come first, so that no process waits long for the other.
PROCESSES ?= 2
PYTEST := pytest -q -n $(PROCESSES) --dist loadgroup --no-loadscope-reorder
BENCHMARKS := $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%.py,$(wildcard benchmarks/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup checks demo serve stop query test check images-check prism engine-test lint types api fast slow bench benchmarks locks clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup:  ## Make both environments from their locks (the other targets do it by themselves)
	@requirements/install.sh pipeline
	@requirements/install.sh serving

checks:  ## Make the environment that looks over manifests and image recipes
	@requirements/install.sh checks

demo: setup  ## Images in, a release out, real queries answered (IMAGES=folder for your own)
	@$(PIPELINE)/lookalike demo $(if $(IMAGES),--images "$(IMAGES)")

serve: setup  ## Start the service of the demo's release and leave it running (ROOT=serving root)
	@$(PIPELINE)/lookalike serve --serving-root "$(ROOT)"

stop: setup  ## Stop what `make serve` started
	@$(PIPELINE)/lookalike serve --serving-root "$(ROOT)" --stop

query: setup  ## Ask the running service (IMAGE=picture.png)
	@$(SERVING)/lookalike query --image "$(IMAGE)"

lint: setup  ## Style, spelling and the API's rules
	$(PIPELINE)/ruff check .
	$(PIPELINE)/ruff format --check .
	$(PIPELINE)/codespell
	$(SERVING)/buf lint serving/protos
	$(SERVING)/buf breaking serving/protos --against serving/protos/baseline.binpb

api: setup  ## Take the protos as they are for what later ones must be compatible with (refuses a break)
	$(SERVING)/buf breaking serving/protos --against serving/protos/baseline.binpb
	$(SERVING)/buf build serving/protos --exclude-source-info -o serving/protos/baseline.binpb

types: setup  ## mypy --strict on the packages
	$(PIPELINE)/mypy

fast: setup checks
	$(SERVING)/$(PYTEST) -m "not slow" tests/serving tests/test_imports.py tests/test_docs.py --ignore tests/serving/model_server
	$(PIPELINE)/$(PYTEST) -m "not slow" tests/pipeline tests/components tests/benchmarks tests/serving/model_server tests/serving/index tests/kubernetes

slow: setup checks
	$(SERVING)/$(PYTEST) -m slow tests/serving --ignore tests/serving/model_server
	$(PIPELINE)/pytest -q -m slow tests/e2e tests/components tests/pipeline tests/serving/model_server tests/conformance tests/kubernetes

prism:  ## Build Beam's portable runner Prism into .venv/prism (Go 1.26; minutes)
	cd requirements/prism && go build -mod=readonly -trimpath -o ../../.venv/prism/prism github.com/apache/beam/sdks/v2/go/cmd/prism

engine-test: setup prism  ## Embed, index and a whole run on Prism and two worker processes, which are killed (minutes)
	port=$$($(PIPELINE)/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'); \
	.venv/prism/prism -job_port $$port -serve_http=false > .venv/prism/log 2>&1 & \
	prism=$$!; trap "kill $$prism" EXIT; \
	LOOKALIKE_JOB_ENDPOINT=localhost:$$port $(PIPELINE)/pytest -q tests/pipeline/workers tests/components/test_on_workers.py tests/engines

images-check: setup checks  ## Lint the image recipes, and run their install steps in fresh environments (minutes, 4 GB)
	$(PIPELINE)/pytest -q tests/kubernetes/test_images.py
	@$(MAKE) bench NAME=startup

check: lint types fast  ## The fast part of `make test`: 2 minutes

bench: setup checks  ## Run benchmarks/NAME.py (SCALE=small for a quick look)
	@$(PIPELINE)/python -W ignore::FutureWarning -m benchmarks.$(NAME) --scale $(SCALE) $(if $(IMAGES),--images "$(IMAGES)")

benchmarks: setup  ## Every benchmark at SCALE
	@for name in $(BENCHMARKS); do $(MAKE) bench NAME=$$name SCALE=$(SCALE); done

test: check slow  ## Everything; what CI runs
	$(MAKE) benchmarks SCALE=small

locks: setup  ## Resolve the inputs in requirements/ anew
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --generate-hashes pipeline.in -o pipeline.lock
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --universal --generate-hashes serving.in -o serving.lock
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --universal --generate-hashes dev.in -c pipeline.lock -c serving.lock -o dev.lock
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_39 --generate-hashes pipeline-311.in -c dev.lock -o pipeline-311.lock
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --universal --generate-hashes bench.in -o bench.lock
	cd requirements && echo hnswlib | ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --universal --no-deps --generate-hashes - -o hnswlib.lock
	cd requirements && ../.venv/bootstrap/bin/uv pip compile -q --python-version 3.10 --universal --generate-hashes checks.in -o checks.lock

clean:  ## Remove the demo and the environments
	rm -rf demo .venv build *.egg-info
