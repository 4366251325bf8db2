"""Traces of real requests: kept in memory, sent to a collector on the wire, and seen by a model server."""

import concurrent.futures
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Query, QueryFailed
from serving.gateway.options import Encoding, Monitoring
from serving.telemetry.tracing import Tracing
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.running import Running

pytestmark = pytest.mark.slow

SEARCH = "lookalike.retrieval.v1.RetrievalService/Search"
PREDICT = "tensorflow.serving.PredictionService/Predict"
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


class Spans:
    """Spans as they end."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider)

    def of(self, root: str) -> dict[str, ReadableSpan]:
        """Returns the spans of the last trace of a name, once its root has ended."""
        end = time.monotonic() + 5
        while True:
            spans = self.exporter.get_finished_spans()
            ended = [span for span in spans if span.name == root]
            if ended:
                return {span.name: span for span in spans if span.context.trace_id == ended[-1].context.trace_id}
            assert time.monotonic() < end, f"no {root} among {[span.name for span in spans]}"
            time.sleep(0.01)


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def gateway(loop: LoopThread, tmp_path, spans: Spans) -> Iterator[Running]:
    collection = Collection(tmp_path / "root")
    collection.publish()
    with Running(loop, collection, tracing=spans.tracing) as gateway:
        gateway.client.wait_until_serving(60)
        yield gateway


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def search(gateway: Running, request: Any, metadata: Any = ()) -> None:
    gateway.raw(f"/{SEARCH}")(request.SerializeToString(), metadata=metadata, timeout=30)


def test_a_query_by_image_is_traced_through_to_the_encoder(gateway: Running, spans: Spans) -> None:
    search(gateway, retrieval_pb2.SearchRequest(image=png(1), k=3), [("traceparent", TRACEPARENT)])
    found = spans.of(SEARCH)
    assert set(found) == {SEARCH, "decode", "encode", PREDICT, "search"}
    root = found[SEARCH]
    assert (f"{root.context.trace_id:032x}", f"{parent(root):016x}") == (TRACE_ID, PARENT_ID)
    assert {parent(found[step]) for step in ("decode", "encode", "search")} == {root.context.span_id}
    assert parent(found[PREDICT]) == found["encode"].context.span_id
    assert (root.kind, found[PREDICT].kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert dict(root.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "lookalike.retrieval.v1.RetrievalService",
        "rpc.method": "Search",
        "rpc.grpc.status_code": 0,
    }
    # In the order of the work, within the request.
    times = [(found[step].start_time, found[step].end_time) for step in ("decode", "encode", "search")]
    assert times == sorted(times)
    assert root.start_time <= times[0][0] and times[-1][1] <= root.end_time
    assert gateway.encoder.traceparents == [f"00-{TRACE_ID}-{found[PREDICT].context.span_id:016x}-01"]


def test_without_a_caller_s_trace_one_begins(gateway: Running, spans: Spans) -> None:
    gateway.client.search(vector=[1.0] * 16)
    found = spans.of(SEARCH)
    assert set(found) == {SEARCH, "search"}
    assert parent(found[SEARCH]) is None


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff" * 100])
def test_a_traceparent_that_is_none_is_as_good_as_none(gateway: Running, spans: Spans, traceparent: str) -> None:
    request = retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=[1.0] * 16), k=1)
    search(gateway, request, [("traceparent", traceparent)])
    assert parent(spans.of(SEARCH)[SEARCH]) is None


def test_what_the_caller_does_not_trace_is_not_traced_here_either(gateway: Running, spans: Spans) -> None:
    search(gateway, retrieval_pb2.SearchRequest(image=png(2), k=3), [("traceparent", TRACEPARENT[:-1] + "0")])
    assert spans.exporter.get_finished_spans() == ()
    (seen,) = gateway.encoder.traceparents
    assert seen.startswith(f"00-{TRACE_ID}-") and seen.endswith("-00")


def test_failures_are_told(gateway: Running, spans: Spans) -> None:
    with pytest.raises(QueryFailed):
        gateway.client.search(image=b"no image")
    root = spans.of(SEARCH)[SEARCH]
    assert dict(root.attributes or {})["rpc.grpc.status_code"] == 3
    # The caller's fault is none of ours.
    assert root.status.status_code == StatusCode.UNSET
    spans.exporter.clear()
    gateway.encoder.fails_with = grpc.StatusCode.INTERNAL
    with pytest.raises(QueryFailed):
        gateway.client.search(image=png(3))
    found = spans.of(SEARCH)
    assert found[SEARCH].status.status_code == found[PREDICT].status.status_code == StatusCode.ERROR
    assert [dict(found[name].attributes or {})["rpc.grpc.status_code"] for name in (SEARCH, PREDICT)] == [13, 13]
    # What the encoder says of its insides is for the log.
    assert "secret" not in "".join(span.to_json() for span in found.values())


def test_a_call_that_is_given_up_ends_its_spans_and_the_encoder_s_work(gateway: Running, spans: Spans) -> None:
    gateway.encoder.delay = 5.0
    asked = len(gateway.encoder.asked)
    call = gateway.raw(f"/{SEARCH}").future(retrieval_pb2.SearchRequest(image=png(4), k=1).SerializeToString())
    until(lambda: len(gateway.encoder.asked) > asked)
    call.cancel()
    found = spans.of(SEARCH)
    assert dict(found[SEARCH].attributes or {})["rpc.grpc.status_code"] == 1
    until(lambda: gateway.encoder.cancelled == 1, 2.0)
    assert dict(spans.of(PREDICT)[PREDICT].attributes or {})["rpc.grpc.status_code"] == 1


def test_a_batch_of_several_requests_belongs_to_the_one_that_waited_longest(
    loop: LoopThread, tmp_path, spans: Spans
) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    with Running(loop, collection, tracing=spans.tracing, encoding=Encoding(batches=1)) as gateway:
        gateway.client.wait_until_serving(60)
        gateway.encoder.delay = 0.3
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: gateway.client.search(image=png(seed)), range(4)))
        ended = spans.exporter.get_finished_spans()
    calls = [span for span in ended if span.name == PREDICT]
    steps = {span.context.span_id: span for span in ended if span.name == "encode"}
    assert len(calls) < len(steps) == 4
    for call in calls:
        # Under way at some time of that step, not after it.
        step = steps[parent(call) or 0]
        assert step.start_time <= call.start_time and call.end_time <= step.end_time
    assert len({parent(call) for call in calls}) == len(calls)


def test_batches_of_a_client_are_traced(gateway: Running, spans: Spans) -> None:
    gateway.client.batch_search([Query(image=png(5)), Query(vector=[1.0] * 16)])
    root = "lookalike.retrieval.v1.RetrievalService/BatchSearch"
    assert set(spans.of(root)) == {root, "decode", "encode", PREDICT, "search"}


def test_whether_the_encoder_is_there_is_no_trace(gateway: Running, spans: Spans) -> None:
    time.sleep(0.2)
    assert spans.exporter.get_finished_spans() == ()
    assert gateway.encoder.traceparents == []


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:
        self.received.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    async def start(self) -> None:
        self.server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()


def test_spans_reach_a_collector_at_the_latest_when_the_gateway_ends(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    collector = Collector()
    loop.run(collector.start())
    monitoring = Monitoring(trace_endpoint=f"http://127.0.0.1:{collector.port}", trace_requests=1.0)
    with Running(loop, collection, monitoring=monitoring) as gateway:
        gateway.client.wait_until_serving(60)
        gateway.client.search(image=png(6))
    loop.run(collector.server.stop(None))
    (spans,) = [part for request in collector.received for part in request.resource_spans]
    names = {attribute.key: attribute.value.string_value for attribute in spans.resource.attributes}
    assert names["service.name"] == "lookalike-gateway"
    assert {span.name for scope in spans.scope_spans for span in scope.spans} >= {SEARCH, "decode", PREDICT}


def test_a_collector_that_is_away_holds_nobody_up(loop: LoopThread, tmp_path, caplog) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    monitoring = Monitoring(trace_endpoint="http://127.0.0.1:1", trace_requests=1.0)
    with Running(loop, collection, monitoring=monitoring) as gateway:
        gateway.client.wait_until_serving(60)
        for seed in range(10):
            gateway.client.search(image=png(seed))
        begun = time.monotonic()
    # The exporter by itself goes on for more than a minute.
    assert time.monotonic() - begun < 45


def test_who_does_not_trace_does_not_import_it() -> None:
    code = (
        "import serving.gateway.gateway, sys; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_who_lacks_opentelemetry_is_told_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from serving.gateway.options import Monitoring\n"
        "from serving.telemetry.telemetry import Telemetry\n"
        "Telemetry(Monitoring())\n"
        "Telemetry(Monitoring(trace_endpoint='http://127.0.0.1:1'))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "ConfigError: monitoring.trace_endpoint needs the extra `tracing`" in run.stderr


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
