"""The core, without gRPC: a real release, an encoder in this process."""

import asyncio
import pathlib
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.release.reader import Release, open_release
from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.decoding import Decoder
from serving.search.embedding import Embedder
from serving.search.held import Held
from serving.search.query import Query
from serving.search.retrieval import Retrieval
from serving.search.searcher import Searcher
from serving.search.workers import Workers
from serving.storage import open_store
from tests.serving.collection import Collection
from tests.serving.fake_model_server import embed
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png


class EncoderHere:
    """Embeds in this process. answer: what it answers instead. gate: what it waits for."""

    def __init__(self) -> None:
        self.answer: np.ndarray | None = None
        self.gate: asyncio.Event | None = None

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> np.ndarray:
        if self.gate is not None:
            await self.gate.wait()
        return embed(images, seed=version - 1) if self.answer is None else self.answer

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        return True


class Core:
    """A Retrieval with everything around it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.collection = Collection(root)
        self.collection.publish()
        self.held = Held()
        self.encoder = EncoderHere()
        self.workers = Workers(threads=2, queue=8)
        self.retrieval = Retrieval(self.held, Embedder(self.encoder, Decoder(self.workers)), self.workers)
        self.flip()

    def flip(self) -> Release:
        release = open_release(open_store(self.collection.root), self.collection.current)
        self.held.flip(Searcher(release, lambda item: item, cached_items=100))
        return release


@pytest.fixture
def core(tmp_path):
    core = Core(tmp_path)
    yield core
    core.held.flip(None)
    core.workers.close()


def closed(release: Release) -> bool:
    try:
        release.get_item("item-1.png")
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "query"),
        ({"image": b"x", "item_id": "a"}, "query"),
        ({"image": b"x", "vector": np.ones(16, np.float32), "item_id": "a"}, "query"),
        ({"item_id": "a", "k": 0}, "k"),
        ({"item_id": "a", "k": 1001}, "k"),
        ({"item_id": ""}, "item_id"),
    ],
)
def test_a_query_that_is_none(arguments: dict, field: str) -> None:
    with pytest.raises(errors.InvalidQuery) as caught:
        Query(**{"k": 1, **arguments})
    assert caught.value.field == field


def test_exactly_one_names_what_was_given() -> None:
    with pytest.raises(errors.InvalidQuery, match=r"must be set, got image, item_id\."):
        Query(k=1, image=b"x", item_id="a")


@pytest.mark.parametrize(
    "answer",
    [
        np.full((1, 16), np.nan, np.float32),
        np.zeros((1, 16), np.float32),
        np.ones((1, 15), np.float32),
    ],
)
def test_an_embedding_that_cannot_be_is_the_encoders_fault(loop: LoopThread, core: Core, answer: np.ndarray) -> None:
    core.encoder.answer = answer
    with pytest.raises(errors.EncoderFault, match="encoder's embedding"):
        loop.run(core.retrieval.search(Query(k=1, image=png(1)), Deadline(5)))


def test_an_embedding_of_another_length_than_1_scores_a_cosine(loop: LoopThread, core: Core) -> None:
    core.encoder.answer = embed([png(3)]) * 100
    result = loop.run(core.retrieval.search(Query(k=1, image=png(3)), Deadline(5)))
    assert result.neighbors[0].score == pytest.approx(1.0, abs=1e-6)


def test_the_image_that_is_encoded_is_canonical(loop: LoopThread, core: Core) -> None:
    result = loop.run(core.retrieval.search(Query(k=1, image=png(3)), Deadline(5)))
    assert result.neighbors[0].item.item_id == "item-3.png"
    with pytest.raises(errors.InvalidQuery) as caught:
        loop.run(core.retrieval.search(Query(k=1, image=b"GIF89a"), Deadline(5)))
    assert caught.value.field == "image"


def test_nothing_is_begun_after_the_deadline(loop: LoopThread, core: Core) -> None:
    for query in (Query(k=1, image=png(3)), Query(k=1, item_id="item-3.png")):
        with pytest.raises(errors.DeadlineExceeded):
            loop.run(core.retrieval.search(query, Deadline(0)))


def test_a_request_finishes_on_the_release_it_began_with(loop: LoopThread, core: Core) -> None:
    async def scenario() -> tuple:
        old = core.held.current
        core.encoder.gate = asyncio.Event()
        slow = asyncio.ensure_future(core.retrieval.search(Query(k=3, image=png(3)), Deadline(5)))
        await asyncio.sleep(0.1)
        first, second = core.collection.current, core.collection.publish(seed=9)
        new = core.flip()
        was_closed = closed(old)
        core.encoder.gate.set()
        return await slow, old, new, was_closed, first, second

    result, old, new, was_closed, first, second = loop.run(scenario())
    assert (result.release_id, result.encoder_version) == (first, 1)
    assert result.neighbors[0].item.item_id == "item-3.png"
    assert not was_closed and closed(old) and not closed(new)
    assert loop.run(core.retrieval.search(Query(k=1, image=png(3)), Deadline(5))).release_id == second


def test_a_release_stays_open_for_a_thread_whose_request_was_given_up(loop: LoopThread, core: Core) -> None:
    """The thread can't be stopped: were the release closed under it, it would read what is no longer mapped."""
    begun, gate, seen = threading.Event(), threading.Event(), []
    old = core.held.current
    nearest = old.nearest

    def slow(*arguments, **options):
        begun.set()
        gate.wait(5)
        seen.append(closed(old))
        return nearest(*arguments, **options)

    old.nearest = slow
    with pytest.raises(errors.DeadlineExceeded):
        loop.run(core.retrieval.search(Query(k=1, vector=np.ones(16, np.float32)), Deadline(0.2)))
    assert begun.is_set()
    core.flip()
    gate.set()
    core.workers._pool.shutdown(wait=True)
    assert seen == [False]
    assert closed(old)


def test_the_releases_of_two_flips(core: Core) -> None:
    taken = core.held.take()
    first, second = taken.release, core.flip()
    assert core.held.current is second and not closed(first)
    taken.drop()
    assert closed(first)
    core.held.flip(None)
    assert closed(second)
    with pytest.raises(errors.NoRelease):
        core.held.take()
