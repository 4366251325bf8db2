# The pipelines: training, reindexing, every step of a Kubeflow run, the model server.
#   docker build -f kubernetes/images/pipeline.Dockerfile -t lookalike/pipeline:0.1.0 \
#     --build-arg BASE=python:3.11-slim-trixie@sha256:... .
# It is of the newer lane (glibc 2.39 or later). BASE=python:3.10-slim-bookworm@sha256:... with LOCK=pipeline is the other one.
# The digest is a placeholder: the registry's own goes there, so that tomorrow's build is today's.
ARG BASE=python:3.11-slim-trixie@sha256:0000000000000000000000000000000000000000000000000000000000000000

FROM ${BASE} AS build
ARG LOCK=pipeline-311
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# For the few that have no wheel. Whatever version the base's Debian has fits it.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python -m venv /opt/lookalike
# Before the code, which changes more often.
COPY requirements/pipeline.lock requirements/pipeline-311.lock requirements/
RUN /opt/lookalike/bin/python -m pip install --quiet --no-deps --require-hashes -r "requirements/${LOCK}.lock"
COPY setup.py pyproject.toml ./
COPY components components
COPY pipeline pipeline
COPY serving serving
RUN /opt/lookalike/bin/python -m pip install --quiet --no-deps --no-build-isolation . \
    && /opt/lookalike/bin/python -m pip uninstall --quiet --yes grpcio-tools

FROM ${BASE}
COPY --from=build /opt/lookalike /opt/lookalike
# TFX, Matplotlib and others want a home to write to.
ENV PATH=/opt/lookalike/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["lookalike"]
CMD ["reindex", "--help"]
