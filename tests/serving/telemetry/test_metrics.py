"""What Prometheus is told by a real gateway, held against what was really asked of it."""

import concurrent.futures
import time
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Query, QueryFailed
from serving.gateway.options import Encoding, Limits
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.telemetry.monitored import Monitored, Scrape

pytestmark = pytest.mark.slow

VECTOR = [1.0] * 16


@pytest.fixture(scope="module")
def steady(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """A gateway over one release, for tests that count from where they began."""
    collection = Collection(tmp_path_factory.mktemp("steady"))
    collection.publish()
    with Monitored(loop, collection) as gateway:
        gateway.client.wait_until_serving(60)
        yield gateway


@pytest.fixture
def collection(tmp_path) -> Collection:
    collection = Collection(tmp_path / "root")
    collection.publish()
    return collection


@pytest.fixture
def gateway(loop: LoopThread, collection: Collection) -> Iterator[Monitored]:
    with Monitored(loop, collection) as gateway:
        gateway.client.wait_until_serving(60)
        yield gateway


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def handled(scrape: Scrape, method: str) -> dict[str, float]:
    """Returns how many requests ended with which code."""
    return {
        dict(labels)["grpc_code"]: value
        for (name, labels), value in scrape.samples.items()
        if name == "grpc_server_handled_total" and dict(labels)["grpc_method"] == method and value
    }


# Requests


def test_requests_are_counted_by_method_and_code(steady: Monitored) -> None:
    before = steady.scrape()
    for _ in range(3):
        steady.client.search(vector=VECTOR)
    steady.client.search(image=png(1))
    for bad in ({"vector": VECTOR, "k": 0}, {"image": b"no image"}, {"item_id": "none"}, {"item_id": "none"}):
        with pytest.raises(QueryFailed):
            steady.client.search(**bad)
    with pytest.raises(QueryFailed):
        steady.client.search(vector=VECTOR, release_id="19700101T000000Z-9")
    steady.client.get_item("item-1.png")
    scrape = steady.scrape().since(before)
    assert handled(scrape, "Search") == {"OK": 4, "InvalidArgument": 2, "NotFound": 2, "FailedPrecondition": 1}
    assert handled(scrape, "GetItem") == {"OK": 1}
    assert handled(scrape, "BatchSearch") == {}
    assert scrape.value("grpc_server_started_total", grpc_method="Search") == 9
    assert scrape.value("grpc_server_handling_seconds_count", grpc_method="Search") == 9


def test_bytes_that_are_no_request_are_counted(steady: Monitored) -> None:
    before = steady.scrape()
    with pytest.raises(grpc.RpcError):
        steady.raw("/lookalike.retrieval.v1.RetrievalService/Search")(b"\xff\xff")
    assert handled(steady.scrape().since(before), "Search") == {"InvalidArgument": 1}


def test_methods_that_do_not_exist_get_no_series(steady: Monitored) -> None:
    before = set(steady.scrape().samples)
    for method in ("/lookalike.retrieval.v1.RetrievalService/Nonsense", "/x.Y/Z"):
        with pytest.raises(grpc.RpcError):
            steady.raw(method)(b"")
    assert set(steady.scrape().samples) == before


def test_seconds_are_those_that_clients_wait(steady: Monitored) -> None:
    before = steady.scrape()
    steady.encoder.delay = 0.2
    begun = time.perf_counter()
    steady.client.search(image=png(2))
    waited = time.perf_counter() - begun
    steady.encoder.delay = 0.0
    scrape = steady.scrape().since(before)
    assert 0.2 <= scrape.value("grpc_server_handling_seconds_sum", grpc_method="Search") <= waited
    assert scrape.value("grpc_server_handling_seconds_bucket", grpc_method="Search", le="0.1") == 0
    assert scrape.value("grpc_server_handling_seconds_bucket", grpc_method="Search", le="+Inf") == 1


def test_every_series_of_a_method_is_there_from_the_start(gateway: Monitored) -> None:
    """A rate over a series that begins at 1 misses the first request."""
    scrape = gateway.scrape()
    methods = [m.name for m in retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"].methods]
    assert len(methods) == 11
    for method in methods:
        for code in ("OK", "Unavailable", "ResourceExhausted", "Unauthenticated"):
            assert scrape.value("grpc_server_handled_total", grpc_method=method, grpc_code=code) == 0
    assert scrape.value("lookalike_release_refusals_total", fault="file") == 0
    assert scrape.value("lookalike_encoder_seconds_count", outcome="fault") == 0


def test_what_the_client_gave_up_is_canceled_and_what_came_too_late_is_not(steady: Monitored) -> None:
    before = steady.scrape()
    steady.encoder.delay = 2.0
    search = steady.raw("/lookalike.retrieval.v1.RetrievalService/Search")
    request = retrieval_pb2.SearchRequest(image=png(3), k=1).SerializeToString()
    call = search.future(request)
    until(lambda: steady.glance().since(before).value("lookalike_encoder_in_flight") == 1)
    call.cancel()
    until(lambda: handled(steady.scrape().since(before), "Search") == {"Canceled": 1})
    with pytest.raises(grpc.RpcError) as late:
        search(request, timeout=0.3)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: handled(steady.scrape().since(before), "Search") == {"Canceled": 1, "DeadlineExceeded": 1})
    until(lambda: steady.scrape().value("lookalike_encoder_in_flight") == 0)
    steady.encoder.delay = 0.0


def test_what_is_refused_under_load_is_counted(loop: LoopThread, collection: Collection) -> None:
    with Monitored(loop, collection, limits=Limits(in_flight=4)) as gateway:
        gateway.client.wait_until_serving(60)
        gateway.call_in_loop(gateway.encoder.gate.clear)

        def ask(seed: int) -> str:
            try:
                gateway.client.search(image=png(seed))
            except QueryFailed as error:
                return error.code
            return "OK"

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(ask, seed) for seed in range(12)]
            until(lambda: gateway.glance().value("lookalike_requests_refused_total") == 9)
            assert gateway.glance().value("lookalike_requests_in_flight", kind="images") == 3
            gateway.call_in_loop(gateway.encoder.gate.set)
            codes = [future.result() for future in asked]
        scrape = gateway.scrape()
        refused = codes.count("RESOURCE_EXHAUSTED")
        assert refused == 9
        assert handled(scrape, "Search") == {"OK": 3, "ResourceExhausted": refused}
        assert scrape.value("lookalike_requests_refused_total") == refused
        assert scrape.value("lookalike_requests_in_flight") == 0


def test_what_is_refused_unread_is_counted(loop: LoopThread, collection: Collection) -> None:
    with Monitored(loop, collection, limits=Limits(in_flight=4)) as gateway:
        gateway.client.wait_until_serving(60)
        for _ in range(2):
            assert gateway.call_in_loop(gateway.admission.enter, _kind("images"), 1)
            assert gateway.call_in_loop(gateway.admission.enter, _kind("plain"), 1)
        with pytest.raises(QueryFailed) as refused:
            gateway.client.search(vector=VECTOR)
        assert refused.value.code == "RESOURCE_EXHAUSTED"
        gateway.call_in_loop(gateway.admission.leave, _kind("plain"), 1)
        gateway.client.search(vector=VECTOR)
        scrape = gateway.scrape()
        assert scrape.value("lookalike_requests_refused_total", kind="unread") == 1
        assert handled(scrape, "Search") == {"OK": 1, "ResourceExhausted": 1}


# Steps


def test_steps_are_timed(steady: Monitored) -> None:
    before = steady.scrape()
    steady.client.search(vector=VECTOR)
    steady.client.search(vector=VECTOR, filter='label = "3"')
    answer = steady.client.search(image=png(4))
    steady.client.batch_search([Query(image=png(5)), Query(vector=VECTOR), Query(item_id="item-1.png")])
    scrape = steady.scrape().since(before)
    assert scrape.value("lookalike_search_seconds_count", method="exact") == 2
    assert scrape.value("lookalike_search_seconds_count", method="exact_filtered") == 1
    assert scrape.value("lookalike_search_seconds_count", method="index") == 0
    assert scrape.value("lookalike_search_seconds_sum", method="exact") >= answer.search_seconds
    assert scrape.value("lookalike_decode_seconds_count") == 2
    assert scrape.value("lookalike_batch_search_seconds_count") == 1
    assert (scrape.value("lookalike_batch_queries_count"), scrape.value("lookalike_batch_queries_sum")) == (1, 3)
    assert scrape.value("lookalike_workers_wait_seconds_count") > 0
    gauges = steady.scrape()
    assert gauges.value("lookalike_worker_threads") == 2
    assert gauges.value("lookalike_workers_busy") == gauges.value("lookalike_workers_waiting") == 0


# The encoder


def test_calls_to_the_encoder_are_counted_by_how_they_end(steady: Monitored) -> None:
    before = steady.scrape()
    steady.client.search(image=png(6))
    steady.client.batch_search([Query(image=png(seed)) for seed in range(5)])
    steady.encoder.answers_as = 7
    with pytest.raises(QueryFailed):
        steady.client.search(image=png(7))
    steady.encoder.answers_as = None
    steady.encoder.fails_with = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(QueryFailed):
        steady.client.search(image=png(8))
    steady.encoder.fails_with = None
    scrape = steady.scrape().since(before)
    outcomes = ("ok", "fault", "overloaded", "unavailable", "rejected", "deadline", "cancelled")
    assert [scrape.value("lookalike_encoder_seconds_count", outcome=outcome) for outcome in outcomes] == [
        *(2, 1, 1, 0, 0, 0, 0)
    ]
    assert (
        scrape.value("lookalike_encoder_batch_images_count"),
        scrape.value("lookalike_encoder_batch_images_sum"),
    ) == (*(4, 8),)


def test_an_encoder_that_dies_is_seen_and_so_is_its_breaker(loop: LoopThread, collection: Collection) -> None:
    encoding = Encoding(breaker_failures=2, breaker_seconds=30.0)
    with Monitored(loop, collection, encoding=encoding) as gateway:
        gateway.client.wait_until_serving(60)
        until(lambda: gateway.scrape().value("lookalike_encoder_up") == 1)
        assert gateway.scrape().value("lookalike_encoder_breaker", state="closed") == 1
        loop.run(gateway.encoder.stop())
        until(lambda: gateway.scrape().value("lookalike_encoder_up") == 0)
        until(lambda: gateway.scrape().value("lookalike_encoder_breaker", state="open") == 1)
        with pytest.raises(QueryFailed):
            gateway.client.search(image=png(9))
        scrape = gateway.scrape()
        assert scrape.value("lookalike_encoder_breaker_opened_total") == 1
        assert scrape.value("lookalike_encoder_breaker_refused_total") == 1
        assert scrape.value("lookalike_release_serving") == 1
        loop.run(gateway.encoder.start())
        until(lambda: gateway.scrape().value("lookalike_encoder_up") == 1)
        gateway.client.search(image=png(9))
        assert gateway.scrape().value("lookalike_encoder_breaker", state="closed") == 1


# Releases


def test_before_the_first_release_there_is_none(loop: LoopThread, tmp_path) -> None:
    with Monitored(loop, Collection(tmp_path / "root")) as gateway:
        scrape = gateway.scrape()
        assert scrape.value("lookalike_release_serving") == scrape.value("lookalike_releases_held") == 0
        assert not scrape.has("lookalike_release_info")
        assert not scrape.has("lookalike_release_age_seconds")


def test_the_served_release_is_told(steady: Monitored) -> None:
    scrape = steady.scrape()
    assert scrape.value("lookalike_release_serving") == 1
    assert scrape.has(
        "lookalike_release_info",
        release_id=steady.collection.current,
        encoder_model="encoder",
        encoder_version="1",
        index_kind="brute_force",
    )
    # The collection's releases were made in the first second of 1970.
    assert scrape.value("lookalike_release_age_seconds") == pytest.approx(time.time(), abs=60)
    assert scrape.value("lookalike_release_items") == len(steady.collection.images)
    assert scrape.value("lookalike_release_swaps_total") == 1
    assert scrape.value("lookalike_release_behind") == 0


def test_a_swap_is_told(gateway: Monitored) -> None:
    old = gateway.collection.current
    gateway.encoder.versions = {1: 0, 2: 1}
    new = gateway.collection.publish(seed=1)
    until(lambda: gateway.scrape().has("lookalike_release_info", release_id=new))
    scrape = gateway.scrape()
    assert not scrape.has("lookalike_release_info", release_id=old)
    assert scrape.has("lookalike_release_info", encoder_version="2")
    assert scrape.value("lookalike_release_swaps_total") == 2
    assert scrape.value("lookalike_releases_held") == 2


def test_a_refused_release_is_told_with_what_is_wrong(gateway: Monitored) -> None:
    served = gateway.collection.current
    gateway.collection.publish(seed=1, flip="embeddings")
    until(lambda: gateway.scrape().value("lookalike_release_refused") == 1)
    scrape = gateway.scrape()
    assert scrape.value("lookalike_release_refusals_total", fault="file") == 1
    assert scrape.value("lookalike_release_refusals_total") == 1
    assert scrape.value("lookalike_release_behind") == 1
    assert scrape.has("lookalike_release_info", release_id=served)
    gateway.collection.point_at(served)
    until(lambda: gateway.scrape().value("lookalike_release_refused") == 0)
    assert gateway.scrape().value("lookalike_release_behind") == 0


def test_a_release_whose_encoder_is_not_there_is_behind_but_not_refused(gateway: Monitored) -> None:
    gateway.collection.publish(seed=1)
    until(lambda: gateway.scrape().value("lookalike_release_behind") == 1)
    assert gateway.scrape().value("lookalike_release_refused") == 0


# The endpoint


def test_prometheus_own_format_is_spoken(steady: Monitored) -> None:
    steady.client.search(image=png(11))
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    with urllib.request.urlopen(urllib.request.Request(steady.metrics_url, headers=accept)) as response:
        names = {family.name for family in text_string_to_metric_families(response.read().decode())}
    assert {"grpc_server_handled", "lookalike_encoder_seconds", "process_cpu_seconds"} <= names


def test_it_listens_on_loopback_alone_and_no_longer_after_the_end(loop: LoopThread, collection: Collection) -> None:
    with Monitored(loop, collection) as gateway:
        url = gateway.metrics_url
        assert url.startswith("http://127.0.0.1:")
        gateway.scrape()
        gateway.drain()
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(url, timeout=30)


def test_a_port_that_is_taken_is_an_error(loop: LoopThread, collection: Collection, gateway: Monitored) -> None:
    taken = int(gateway.metrics_url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(OSError, match=f"can't listen for metrics on 127.0.0.1:{taken}"):
        Monitored(loop, collection, monitoring={"metrics_port": taken}).__enter__()


def test_scrapes_during_load_never_see_more_ends_than_begins(steady: Monitored) -> None:
    stop = time.monotonic() + 1.0

    def load() -> None:
        while time.monotonic() < stop:
            steady.client.search(vector=VECTOR)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load) for _ in range(4)]
        while time.monotonic() < stop:
            scrape = steady.scrape()
            begun = scrape.value("grpc_server_started_total", grpc_method="Search")
            assert 0 <= begun - scrape.value("grpc_server_handled_total", grpc_method="Search") <= 4
        for future in running:
            future.result()


def _kind(name: str):
    from serving.gateway.admission import Kind

    return Kind(name)
