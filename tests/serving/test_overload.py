"""More than the gateway takes on: a real gateway, a real channel, and an encoder that takes its time."""

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client, QueryFailed
from serving.gateway.admission import Kind
from serving.gateway.options import Encoding, Limits
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.running import Running

pytestmark = pytest.mark.slow

ONE = [1.0] * 16
SEARCH = "/lookalike.retrieval.v1.RetrievalService/Search"


@pytest.fixture
def crowded(loop: LoopThread, tmp_path) -> Iterator[Running]:
    """A gateway that takes on four requests, three of them with images."""
    collection = Collection(tmp_path / "root")
    collection.publish()
    limits = Limits(in_flight=4, in_flight_bytes=2**20, request_bytes=2**20)
    with Running(loop, collection, limits=limits, encoding=Encoding(breaker_seconds=0.1)) as running:
        running.client.wait_until_serving(60)
        yield running


def search(running: Running, **query) -> str:
    try:
        running.client.search(**query)
    except QueryFailed as error:
        return f"{error.code} {error.reason} {error.retry_seconds:g}"
    return "OK"


def test_what_is_too_much_is_refused_at_once_and_says_when_to_ask_again(crowded: Running) -> None:
    crowded.call_in_loop(crowded.encoder.gate.clear)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(search, crowded, image=png(i)) for i in range(3)]
        until(lambda: crowded.admission.in_flight.total() == 3)
        assert search(crowded, image=png(9)) == "RESOURCE_EXHAUSTED OVERLOADED 1"
        assert search(crowded, vector=ONE) == "OK", "images can't crowd out the others"
        crowded.call_in_loop(crowded.encoder.gate.set)
        assert [future.result() for future in waiting] == ["OK"] * 3
    assert search(crowded, image=png(9)) == "OK"


def test_when_nothing_more_fits_requests_are_refused_unread(crowded: Running) -> None:
    crowded.call_in_loop(crowded.encoder.gate.clear)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(search, crowded, image=png(i)) for i in range(3)]
        until(lambda: crowded.admission.in_flight.total() == 3)
        # Stands for one without an image that takes long.
        crowded.call_in_loop(crowded.admission.enter, Kind.PLAIN, 1)
        assert search(crowded, vector=ONE) == "RESOURCE_EXHAUSTED OVERLOADED 1"
        assert crowded.admission.refused[None] == 1
        assert crowded.client.is_serving(), "health is not for sale"
        crowded.call_in_loop(crowded.admission.leave, Kind.PLAIN, 1)
        crowded.call_in_loop(crowded.encoder.gate.set)
        assert [future.result() for future in waiting] == ["OK"] * 3


def test_what_there_is_no_time_to_refuse_is_dropped_and_the_client_can_tell(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    sleeping, sleep = sleeper()
    with Running(loop, collection, limits=Limits(backlog=4)) as running:
        running.client.wait_until_serving(60)
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            # The loop looks at nothing for a while; eight are kept for it, the others are dropped at once.
            busy = pool.submit(running.call_in_loop, sleep, 5.0)
            assert sleeping.wait(60)
            outcomes = [pool.submit(search, running, vector=ONE) for _ in range(40)]
            until(lambda: sum(future.done() for future in outcomes) >= 20)
            assert not busy.done()
            busy.result()
            found = [future.result() for future in outcomes]
    assert set(found) == {"OK", "RESOURCE_EXHAUSTED OVERLOADED 1"}
    assert 4 <= found.count("OK") <= 16


def test_bytes_are_limited_too(crowded: Running) -> None:
    crowded.call_in_loop(crowded.encoder.gate.clear)
    large = png(1) + bytes(600_000)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(search, crowded, image=large)
        until(lambda: crowded.admission.in_flight.total() == 1)
        assert search(crowded, image=large) == "RESOURCE_EXHAUSTED OVERLOADED 1"
        crowded.call_in_loop(crowded.encoder.gate.set)
        first.result()
    assert search(crowded, image=png(2)) == "OK"


def test_what_is_larger_than_a_request_may_be_is_refused_by_the_transport(crowded: Running) -> None:
    with pytest.raises(QueryFailed) as caught:
        crowded.client.search(image=bytes(2**20))
    assert caught.value.code == "RESOURCE_EXHAUSTED"


def test_metadata_is_limited(crowded: Running) -> None:
    request = retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=ONE), k=1).SerializeToString()
    ask = crowded.raw(SEARCH)
    assert ask(request, timeout=5, metadata=[("x-small", "x" * 4000)])
    with pytest.raises(grpc.RpcError) as caught:
        ask(request, timeout=5, metadata=[("x-large", "x" * 40_000)])
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_work_whose_deadline_has_passed_is_not_begun(crowded: Running) -> None:
    def hasty(i: int) -> str:
        with Client(crowded.address, timeout=0.1) as client, pytest.raises(QueryFailed) as caught:
            client.search(image=png(i))
        return caught.value.code

    asked = len(crowded.encoder.asked)
    sleeping, sleep = sleeper()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        # The loop is busy with something else until the time of all is up.
        busy = pool.submit(crowded.call_in_loop, sleep, 3.0)
        assert sleeping.wait(60)
        assert list(pool.map(hasty, range(3))) == ["DEADLINE_EXCEEDED"] * 3
        busy.result()
    until(lambda: crowded.admission.in_flight.total() == 0)
    assert search(crowded, image=png(1)) == "OK"
    assert len(crowded.encoder.asked) == asked + 1


def test_images_fail_fast_while_the_encoder_is_away_and_soon_work_again(crowded: Running, loop: LoopThread) -> None:
    loop.run(crowded.encoder.stop())
    until(lambda: not crowded.client.is_serving("lookalike.encoder"))
    started = crowded.started("Search")
    for _ in range(8):
        assert search(crowded, image=png(1)) == "UNAVAILABLE ENCODER_UNAVAILABLE 1"
        assert search(crowded, vector=ONE) == "OK"
    assert crowded.started("Search") == started + 16, "the client doesn't try again"
    loop.run(crowded.encoder.start())
    until(lambda: search(crowded, image=png(1)) == "OK")


def test_images_fail_fast_while_the_encoder_hangs_and_soon_work_again(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    encoding = Encoding(encode_seconds=1.0, breaker_failures=3, breaker_seconds=5.0)
    # Nothing else looks at the encoder meanwhile.
    with Running(loop, collection, encoding=encoding, poll_seconds=3600.0) as running:
        running.client.wait_until_serving(60, encoder=False)
        running.encoder.delay = 60.0
        for _ in range(3):
            assert search(running, image=png(1)) == "UNAVAILABLE ENCODER_UNAVAILABLE 1"
        asked = len(running.encoder.asked)
        assert search(running, image=png(1)) == "UNAVAILABLE ENCODER_UNAVAILABLE 1"
        assert len(running.encoder.asked) == asked, "it fails at once"
        assert search(running, vector=ONE) == "OK"
        running.encoder.delay = 0.0
        until(lambda: search(running, image=png(1)) == "OK")


def test_single_images_at_the_same_time_reach_the_encoder_together(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    with Running(loop, collection) as running:
        running.client.wait_until_serving(60)
        running.encoder.delay = 0.05
        asked = len(running.encoder.asked)
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda i: running.client.search(image=png(i), k=1), range(32)))
        assert [answer.neighbors[0].item.item_id for answer in found] == [f"item-{i}.png" for i in range(32)]
        sizes = [images for _, images in running.encoder.asked[asked:]]
        assert sum(sizes) == 32 and len(sizes) < 16, sizes


def sleeper() -> tuple[threading.Event, Callable[[float], None]]:
    """Returns what blocks its thread, and tells when it has begun to."""
    begun = threading.Event()

    def sleep(seconds: float) -> None:
        begun.set()
        time.sleep(seconds)

    return begun, sleep


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
