"""A root over leaves, all of them real gateways: it answers as one process does, and says what is missing."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.serving.collection import Collection
from tests.serving.fake_model_server import embed
from tests.serving.fanned_out import FannedOut
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.running import Running

SHARDS = 6


@pytest.fixture(scope="module")
def both(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FannedOut, Running]]:
    """A root over four leaves, and one process, over the same release; for tests that leave them as they are."""
    collection = Collection(tmp_path_factory.mktemp("fanout"))
    for name in ("item-100.png", "item-101.png", "item-102.png"):
        collection.images[name] = collection.images["item-3.png"]
    collection.publish(shards=SHARDS)
    with FannedOut(loop, collection) as root, Running(loop, collection) as one:
        root.client.wait_until_serving(60)
        one.client.wait_until_serving(60)
        yield root, one


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


QUERIES = {
    "vector": {"vector": embed([png(1000)])[0].tolist()},
    "image": {"image": png(1001)},
    "item": {"item_id": "item-7.png"},
    "item with copies": {"item_id": "item-3.png", "k": 4},
    "all": {"item_id": "item-3.png", "k": 1000},
    "min_score": {"image": png(1002), "min_score": 0.8, "k": 40},
    "filter": {"image": png(1003), "filter": 'label = "3" or number < 5', "k": 40},
    "filter that nothing matches": {"image": png(1003), "filter": 'label = "none"'},
    "collapse": {"image": png(3), "collapse": 1.0, "k": 5},
    "collapse of nearly all": {"image": png(3), "collapse": 0.5, "k": 5},
    "collapse with a filter": {"item_id": "item-100.png", "collapse": 0.9, "filter": "number < 30", "k": 40},
    "groups": {"image": png(3), "collapse_groups": True, "k": 7},
    "one": {"vector": [1.0] * 16, "k": 1},
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_root_answers_as_one_process_does(both: tuple[FannedOut, Running], name: str) -> None:
    root, one = both
    answer, expected = root.client.search(**QUERIES[name]), one.client.search(**QUERIES[name])
    assert answer.neighbors == expected.neighbors
    assert (answer.release_id, answer.encoder_version) == (expected.release_id, expected.encoder_version)
    assert (answer.method, answer.matching) == (expected.method, expected.matching)
    assert (answer.coverage, answer.degraded) == (expected.coverage, expected.degraded) == (1.0, False)
