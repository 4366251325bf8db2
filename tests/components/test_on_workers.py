"""Embedder and IndexBuilder on worker processes, which are killed while they encode."""

import concurrent.futures
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from components.artifacts import Embeddings, VectorIndex
from components.embedder import Embedder
from components.index_builder import IndexBuilder, read_index
from pipeline.config import PipelineConfig
from pipeline.workers.pool import WorkerPool
from serving.release.items import ItemShard
from tests.components.tiny import Picture, make_encoder, make_examples, png
from tests.pipeline.workers.jobs import options, running_pool

pytestmark = pytest.mark.slow


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with running_pool() as running:
        yield running


def embed(folder: pathlib.Path, args, examples, encoder) -> Embeddings:
    """Runs Embedder with Beam's options `args`; returns its artifact."""
    embeddings = Embeddings()
    embeddings.uri = str(folder)
    Embedder.test_call(
        examples=examples,
        infra_blessing=encoder.blessing,
        embeddings=embeddings,
        serving_root=str(folder.with_name(f"{folder.name}-serving")),
        batch_size=2,
        max_failed_share=0.01,
        beam_pipeline=beam.Pipeline(options=PipelineOptions(args)),
    )
    return embeddings


def build(folder: pathlib.Path, args, embeddings: Embeddings) -> VectorIndex:
    """Runs IndexBuilder with Beam's options `args`; returns its artifact."""
    index = VectorIndex()
    index.uri = str(folder)
    IndexBuilder.test_call(
        embeddings=embeddings,
        index=index,
        shards=2,
        parameters="",
        beam_pipeline=beam.Pipeline(options=PipelineOptions(args)),
    )
    return index


def contents(index: VectorIndex) -> dict:
    """Returns item -> (the item, its vector) of a VectorIndex artifact."""
    folder = pathlib.Path(index.uri)
    found = {}
    for entry in read_index(index.uri)["shards"]:
        items = list(ItemShard(folder / entry["items"]))
        vectors = np.load(folder / entry["embeddings"])
        assert len(items) == len(vectors) == entry["count"]
        found.update({item.item_id: (item, vector) for item, vector in zip(items, vectors, strict=True)})
    return found


def kill_at_work(pool: WorkerPool, calls: pathlib.Path, embedding: concurrent.futures.Future) -> None:
    """Kills every process of the pool once one of them is encoding."""
    while not calls.exists():
        assert not embedding.done(), embedding.exception()
        time.sleep(0.05)
    [group] = pool.groups.values()
    for tally in group.tallies:
        if tally.pid:
            os.kill(tally.pid, signal.SIGKILL)


def test_processes_killed_while_they_encode_change_nothing_of_what_comes_out(pool, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    encoder = make_encoder(tmp_path / "blessing", gate=str(gate))
    pictures = [Picture(f"{n}.png", png(n % 28), "eval" if n % 3 == 0 else "train") for n in range(32)]
    examples = make_examples(tmp_path / "examples", pictures)
    direct = PipelineConfig().beam_args
    alone = contents(build(tmp_path / "index", direct, embed(tmp_path / "embeddings", direct, examples, encoder)))
    encoder.calls()

    gate.unlink()
    shared = options(pool.address)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        embedding = executor.submit(embed, tmp_path / "shared", shared, examples, encoder)
        kill_at_work(pool, encoder.log, embedding)
        gate.touch()
        embeddings = embedding.result()
    [group] = pool.groups.values()
    assert sum(tally.died for tally in group.tallies) >= 1
    # Each content once, but for the batches that were in the hands of those who died.
    assert sum(encoder.calls()) >= 28

    together = contents(build(tmp_path / "shared-index", shared, embeddings))
    assert together.keys() == alone.keys() == {picture.item_id for picture in pictures}
    for item_id, (item, vector) in alone.items():
        assert together[item_id][0] == item
        np.testing.assert_allclose(together[item_id][1], vector, atol=1e-6)
