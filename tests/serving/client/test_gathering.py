"""Searches of many threads that go to a real gateway together."""

import concurrent.futures
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.client import Answer, FilterSyntaxError, GatheringClient, QueryFailed
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.running import Running

VECTORS = [[1.0] * i + [0.5] * (16 - i) for i in range(16)]


@pytest.fixture(scope="module")
def steady(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway over one release, for tests that leave it as it is."""
    collection = Collection(tmp_path_factory.mktemp("steady"))
    collection.publish()
    with Running(loop, collection) as running:
        running.client.wait_until_serving(60)
        yield running


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        yield pool


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def outcome(ask: Callable[[], Answer]) -> Any:
    try:
        # Seconds differ, and a batch has its own.
        return dataclasses.replace(ask(), decode_seconds=0.0, encode_seconds=0.0, search_seconds=0.0)
    except QueryFailed as failed:
        return failed.code, str(failed), failed.reason, failed.field


def behind_an_image(
    running: Running,
    client: GatheringClient,
    pool: concurrent.futures.ThreadPoolExecutor,
    searches: list[dict[str, Any]],
) -> tuple[Any, list[Any]]:
    """Returns the outcome of an image's search, and of those that were asked for while the encoder was busy with it."""
    gate = running.encoder.gate
    running.call_in_loop(gate.clear)
    asked = len(running.encoder.asked)
    first = pool.submit(outcome, lambda: client.search(image=png(1)))
    until(lambda: len(running.encoder.asked) > asked)
    others = []
    for number, search in enumerate(searches, 1):
        others.append(pool.submit(outcome, lambda search=search: client.search(**search)))
        until(lambda number=number: len(client._queue) == number)
    running.call_in_loop(gate.set)
    return first.result(60), [other.result(60) for other in others]


def test_queries_go_together_and_each_has_its_own_outcome(
    steady: Running, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    release = steady.client.get_release().release_id
    searches: list[dict[str, Any]] = [
        *({"vector": vector, "k": k} for k, vector in enumerate(VECTORS, 1)),
        {"vector": VECTORS[0][:3]},
        {"item_id": "item-3.png", "filter": 'label = "3"'},
        {"item_id": "no such item"},
        {"vector": VECTORS[1], "k": 1001},
        {"image": b"no image"},
    ]
    calls = steady.started("BatchSearch")
    with GatheringClient(steady.address) as client:
        first, outcomes = behind_an_image(steady, client, pool, searches)
    assert steady.started("BatchSearch") == calls + 1
    assert first == outcome(lambda: steady.client.search(image=png(1)))
    assert outcomes == [outcome(lambda search=search: steady.client.search(**search)) for search in searches]
    assert {result.release_id for result in outcomes if isinstance(result, Answer)} == {release}


def test_pins_and_sizes_part_batches(steady: Running, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    release = steady.client.get_release().release_id
    searches = [
        {"vector": VECTORS[0]},
        {"vector": VECTORS[1], "release_id": release},
        {"vector": VECTORS[2], "release_id": release},
        {"vector": VECTORS[3], "release_id": "gone"},
        *({"vector": vector} for vector in VECTORS[4:8]),
    ]
    batches, single = steady.started("BatchSearch"), steady.started("Search")
    with GatheringClient(steady.address, queries=3) as client:
        _, outcomes = behind_an_image(steady, client, pool, searches)
    # One, two with a pin, one with another, three and one; and the image's own.
    assert (steady.started("BatchSearch") - batches, steady.started("Search") - single) == (2, 4)
    assert outcomes == [outcome(lambda search=search: steady.client.search(**search)) for search in searches]
    assert outcomes[3][:1] == ("FAILED_PRECONDITION",)


def test_many_threads_get_what_they_asked_for(steady: Running, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    wanted = [outcome(lambda vector=vector: steady.client.search(vector=vector)) for vector in VECTORS]
    with GatheringClient(steady.address, calls=2) as client:
        asked = [pool.submit(outcome, lambda i=i: client.search(vector=VECTORS[i % 16])) for i in range(400)]
        assert [each.result(60) for each in asked] == [wanted[i % 16] for i in range(400)]


def test_who_waits_too_long_is_told_and_the_others_go_on(
    steady: Running, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    gate = steady.encoder.gate
    with GatheringClient(steady.address, timeout=2.0) as client:
        steady.call_in_loop(gate.clear)
        asked = len(steady.encoder.asked)
        first = pool.submit(outcome, lambda: client.search(image=png(1)))
        until(lambda: len(steady.encoder.asked) > asked)
        waiting = pool.submit(outcome, lambda: client.search(vector=VECTORS[0]))
        until(lambda: len(client._queue) == 1)
        assert first.result(60)[0] == "DEADLINE_EXCEEDED"
        steady.call_in_loop(gate.set)
        # Its time is over at about the same moment: it is told so, or still answered.
        waiting.result(60)
        assert outcome(lambda: client.search(vector=VECTORS[0])) == outcome(
            lambda: steady.client.search(vector=VECTORS[0])
        )


class Interrupted(GatheringClient):
    """Its first call waits, and ends as Ctrl-C ends one."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.go = threading.Event()
        self.begun = threading.Event()

    def _call(self, *arguments: Any) -> Any:
        if not self.begun.is_set():
            self.begun.set()
            self.go.wait(60)
            raise KeyboardInterrupt
        return super()._call(*arguments)


def test_an_interrupted_thread_leaves_others_their_turn(
    steady: Running, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    with Interrupted(steady.address) as client:

        def interrupted() -> bool:
            with pytest.raises(KeyboardInterrupt):
                client.search(vector=VECTORS[0])
            return True

        first = pool.submit(interrupted)
        assert client.begun.wait(60)
        others = [pool.submit(outcome, lambda v=v: client.search(vector=v)) for v in VECTORS]
        until(lambda: len(client._queue) == len(VECTORS))
        client.go.set()
        assert first.result(60)
        assert [type(other.result(60)) for other in others] == [Answer] * len(VECTORS)


def test_a_gateway_that_is_away_fails_all(
    loop: LoopThread, tmp_path: pathlib.Path, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    with GatheringClient("127.0.0.1:1") as client:
        asked = [pool.submit(outcome, lambda v=v: client.search(vector=v)) for v in VECTORS]
        assert {each.result(60)[0] for each in asked} == {"UNAVAILABLE"}


def test_options_that_can_not_be(steady: Running) -> None:
    for options, text in (({"queries": 0}, "queries must be in"), ({"calls": 0}, "calls must be at least 1")):
        with pytest.raises(ValueError, match=text):
            GatheringClient(steady.address, **options)  # type: ignore[arg-type]
    with GatheringClient(steady.address) as client:
        # What is wrong before anything is sent is nobody else's matter.
        with pytest.raises(FilterSyntaxError):
            client.search(vector=VECTORS[0], filter="label =")
        with pytest.raises(TypeError):
            client.search()
        assert client.search(vector=VECTORS[0]).neighbors
