# The gateway and the client, without TensorFlow.
#   docker build -f kubernetes/images/gateway.Dockerfile -t lookalike/gateway:0.1.0 \
#     --build-arg BASE=python:3.12-slim-bookworm@sha256:... .
# The digest is a placeholder: the registry's own goes there, so that tomorrow's build is today's.
ARG BASE=python:3.12-slim-bookworm@sha256:0000000000000000000000000000000000000000000000000000000000000000

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/lookalike
# Before the code, which changes more often.
COPY requirements/serving.lock requirements/
RUN /opt/lookalike/bin/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes -r requirements/serving.lock
COPY setup.py pyproject.toml ./
COPY serving serving
RUN /opt/lookalike/bin/python -m pip install --quiet --no-deps --no-build-isolation . \
    # What generated the stubs and installed everything has nothing left to do.
    && /opt/lookalike/bin/python -m pip uninstall --quiet --yes grpcio-tools setuptools pip

FROM ${BASE}
COPY --from=build /opt/lookalike /opt/lookalike
ENV PATH=/opt/lookalike/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["lookalike"]
CMD ["gateway", "--help"]
