"""What building an index takes of memory: that of a shard, whatever the collection holds."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.components.tiny import make_embeddings

COUNT, DIMENSION, PARTS = 24_000, 1024, 8
COLLECTION = COUNT * DIMENSION * 4

# After a small build, so that nothing is imported or started while it is measured. Writing 5 there forgets the peak.
BUILD = """
import json, pathlib, sys
import apache_beam as beam
from components.artifacts import Embeddings, VectorIndex
from components.index_builder import IndexBuilder
from pipeline.beam_options import DIRECT_RUNNER

def build(source, target, shards):
    embeddings, index = Embeddings(), VectorIndex()
    embeddings.uri, index.uri = source, target
    IndexBuilder.test_call(
        embeddings=embeddings,
        index=index,
        shards=shards,
        parameters=sys.argv[4],
        duplicates='{"enabled": false}',
        tuning='{"search": {"sample": 1000, "queries": 10, "leaves": [1], "hash_dimensions": [], "spill": false}}',
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
    )

def resident(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

build(sys.argv[1] + "/small", sys.argv[2] + "/small", 1)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
build(sys.argv[1] + "/large", sys.argv[2] + "/large", int(sys.argv[3]))
print(json.dumps(resident("VmHWM") - before))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("embeddings")
    make_embeddings(folder / "small", 1000, parts=1)
    vectors = np.random.default_rng(0).standard_normal((COUNT, DIMENSION), np.float32)
    make_embeddings(folder / "large", COUNT, parts=PARTS, vectors=vectors)
    return folder


def peak(sources: pathlib.Path, target: pathlib.Path, shards: int, **parameters) -> int:
    """Returns by how many bytes a build exceeds what the process held before it."""
    command = [sys.executable, "-c", BUILD, str(sources), str(target), str(shards), json.dumps(parameters)]
    # Of glibc: what is freed is given back, so that the peak is what was held at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, check=True, timeout=600, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_is_bounded_by_a_shard(sources: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # A tree, so that its parameters are searched for too.
    whole = peak(sources, tmp_path / "one", 1, kind="tree")
    shards = peak(sources, tmp_path / "many", PARTS, kind="tree")
    # In one shard the embeddings are there at least once, so the measurement sees them.
    assert whole > COLLECTION
    # In eight, an eighth a few times: what a shard is read from, the shard, ScaNN's copy. Measured: 0.56.
    assert shards < COLLECTION * 0.75
