"""A real gateway, a real channel, a TF Serving on the wire, a real release."""

import concurrent.futures
import time
from collections.abc import Callable, Iterator

import fsspec
import grpc
import hypothesis
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import strategies as st

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import Client, QueryFailed
from serving.images import ImageLimits
from tests.serving.collection import Collection
from tests.serving.fake_model_server import embed
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png, png_header
from tests.serving.running import Running

SEARCH = "/lookalike.retrieval.v1.RetrievalService/Search"


@pytest.fixture(scope="module")
def steady(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway over one release, for tests that leave it as it is."""
    collection = Collection(tmp_path_factory.mktemp("steady"))
    collection.publish()
    with Running(loop, collection) as running:
        running.client.wait_until_serving(60)
        yield running


@pytest.fixture
def running(loop: LoopThread, tmp_path) -> Iterator[Running]:
    """A gateway over a root of its own, with one release."""
    collection = Collection(tmp_path / "root")
    collection.publish()
    with Running(loop, collection) as running:
        running.client.wait_until_serving(60)
        yield running


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


# Answers


def test_an_image_of_the_collection_finds_itself(steady: Running) -> None:
    answer = steady.client.search(image=steady.collection.images["item-3.png"], k=5)
    assert answer.neighbors[0].item.item_id == "item-3.png"
    assert answer.neighbors[0].score == pytest.approx(1.0, abs=1e-6)
    assert (answer.release_id, answer.encoder_version) == (steady.collection.current, 1)


def test_answers_are_those_of_brute_force(steady: Running) -> None:
    image = png(1000)
    answer = steady.client.search(image=image, k=10)
    expected = steady.collection.nearest(embed([image])[0], 10)
    assert [n.item.item_id for n in answer.neighbors] == [name for name, _ in expected]
    np.testing.assert_allclose([n.score for n in answer.neighbors], [score for _, score in expected], atol=1e-6)
    assert answer.decode_seconds > 0 and answer.encode_seconds > 0 and answer.search_seconds > 0


def test_a_vector_of_any_length_finds_what_its_image_does(steady: Running) -> None:
    image = png(1001)
    by_image = steady.client.search(image=image, k=7)
    for scale in (1e-30, 1.0, 1e30):
        by_vector = steady.client.search(vector=(embed([image])[0].astype(float) * scale).tolist(), k=7)
        assert [n.item for n in by_vector.neighbors] == [n.item for n in by_image.neighbors]
    assert by_vector.decode_seconds == by_vector.encode_seconds == 0


def test_an_item_is_left_out_of_its_own_answer(steady: Running) -> None:
    answer = steady.client.search(item_id="item-3.png", k=1000)
    found = {n.item.item_id for n in answer.neighbors}
    assert found == set(steady.collection.images) - {"item-3.png"}


def test_every_k_is_answered(steady: Running) -> None:
    count = len(steady.collection.images)
    for k in (1, 2, count - 1, count, count + 1, 1000):
        assert len(steady.client.search(vector=[1.0] * 16, k=k).neighbors) == min(k, count)


def test_encode(steady: Running) -> None:
    embedding = steady.client.encode(png(5))
    np.testing.assert_array_equal(np.float32(embedding.values), embed([png(5)])[0])
    assert (embedding.release_id, embedding.encoder_version) == (steady.collection.current, 1)


def test_get_item(steady: Running) -> None:
    item = steady.client.get_item("item-3.png")
    assert (item.item_id, item.width, item.height, item.thumbnail) == ("item-3.png", 16, 16, b"")
    assert item.attributes == {"label": "3", "number": 3, "half": 1.5, "odd": True}
    assert steady.client.get_item("item-3.png", thumbnail=True).thumbnail == b"thumbnail of item-3.png"


def test_get_release(steady: Running) -> None:
    release = steady.client.get_release()
    assert release.release_id == steady.collection.current
    assert (release.count, release.dimension, release.encoder_version) == (len(steady.collection.images), 16, 1)


# Bad requests

VECTOR = retrieval_pb2.Vector(values=[1.0] * 16)
BAD = {
    "no query": (retrieval_pb2.SearchRequest(k=1), "query"),
    "k of 0": (retrieval_pb2.SearchRequest(vector=VECTOR), "k"),
    "k of -1": (retrieval_pb2.SearchRequest(vector=VECTOR, k=-1), "k"),
    "k of a million": (retrieval_pb2.SearchRequest(vector=VECTOR, k=1_000_000), "k"),
    "empty": (retrieval_pb2.SearchRequest(image=b"", k=1), "image"),
    "not an image": (retrieval_pb2.SearchRequest(image=b"<html>hello</html>" * 100, k=1), "image"),
    "truncated": (retrieval_pb2.SearchRequest(image=png(0, side=64)[:-40], k=1), "image"),
    "a bomb's header": (retrieval_pb2.SearchRequest(image=png_header(30000, 30000), k=1), "image"),
    "too many bytes": (retrieval_pb2.SearchRequest(image=png(0) + bytes(ImageLimits().max_bytes), k=1), "image"),
    "no vector": (retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(), k=1), "vector"),
    "NaN": (retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=[float("nan")] * 16), k=1), "vector"),
    "infinity": (retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=[float("inf")] * 16), k=1), "vector"),
    "wrong dimension": (retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=[1.0] * 15), k=1), "vector"),
    "zero": (retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=[0.0] * 16), k=1), "vector"),
    "empty id": (retrieval_pb2.SearchRequest(item_id="", k=1), "item_id"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_an_invalid_argument_that_names_the_field(steady: Running, name: str) -> None:
    request, field = BAD[name]
    with pytest.raises(QueryFailed) as caught:
        steady.client._call(steady.client._stub.Search, request)
    assert (caught.value.code, caught.value.field) == ("INVALID_ARGUMENT", field)
    assert steady.client.search(image=png(1), k=1).neighbors


def test_a_limit_and_the_value_are_in_the_message(steady: Running) -> None:
    with pytest.raises(QueryFailed, match=r"k must be in \[1, 1000\], got -1\."):
        steady.client.search(vector=[1.0] * 16, k=-1)
    with pytest.raises(QueryFailed, match=r"vector must have 16 values, got 3\."):
        steady.client.search(vector=[1.0] * 3)


@pytest.mark.parametrize("image", [b"", b"no image", png(0)[:60], png_header(30000, 30000)])
def test_encode_refuses_what_search_refuses(steady: Running, image: bytes) -> None:
    with pytest.raises(QueryFailed) as caught:
        steady.client.encode(image)
    assert (caught.value.code, caught.value.field) == ("INVALID_ARGUMENT", "image")


@pytest.mark.parametrize("item_id", ["nobody", "x" * 100_000, "../../etc/passwd", "a\0b", "' OR 1=1 --"])
def test_an_unknown_item_is_not_found(steady: Running, item_id: str) -> None:
    for ask in (lambda: steady.client.search(item_id=item_id), lambda: steady.client.get_item(item_id)):
        with pytest.raises(QueryFailed) as caught:
            ask()
        assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "ITEM_NOT_FOUND")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x7fshort", b"\x1a\x02\xff\xfe"])
def test_bytes_that_are_no_request(steady: Running, data: bytes) -> None:
    with grpc.insecure_channel(steady.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SEARCH)(data, timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@hypothesis.given(data=st.binary(max_size=300), method=st.sampled_from(["Search", "Encode", "GetItem", "GetRelease"]))
@hypothesis.settings(max_examples=200, deadline=None)
def test_whatever_bytes_come_nothing_is_internal(steady: Running, data: bytes, method: str) -> None:
    try:
        steady.raw(f"/lookalike.retrieval.v1.RetrievalService/{method}")(data, timeout=30)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def test_more_than_a_message_may_hold_is_refused_by_the_transport(steady: Running) -> None:
    with pytest.raises(QueryFailed) as caught:
        steady.client.search(image=bytes(ImageLimits().max_bytes + 2**20))
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert steady.client.search(image=png(1)).neighbors


def test_an_unknown_method(steady: Running) -> None:
    with grpc.insecure_channel(steady.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(SEARCH + "More")(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


# The encoder


def test_an_answer_of_another_version_is_an_error_and_never_an_answer(running: Running) -> None:
    running.encoder.answers_as = 2
    with pytest.raises(QueryFailed) as caught:
        running.client.search(image=png(1))
    assert (caught.value.code, caught.value.reason) == ("INTERNAL", "ENCODER_FAULT")
    running.encoder.answers_as = None
    assert running.client.search(image=png(1)).neighbors


def test_an_image_that_the_encoder_refuses_is_the_clients_fault(running: Running) -> None:
    running.encoder.rejects = {png(77)}
    with pytest.raises(QueryFailed) as caught:
        running.client.search(image=png(77))
    assert (caught.value.code, caught.value.field) == ("INVALID_ARGUMENT", "image")


def test_while_the_encoder_is_away_only_images_fail_and_fast(running: Running, loop: LoopThread) -> None:
    loop.run(running.encoder.stop())
    with pytest.raises(QueryFailed, match="can't be reached") as caught:
        running.client.search(image=png(1))
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "ENCODER_UNAVAILABLE")
    assert caught.value.retry_seconds == 1
    assert running.client.search(vector=[1.0] * 16).neighbors
    assert running.client.search(item_id="item-3.png").neighbors
    until(lambda: not running.client.is_serving("lookalike.encoder"))
    assert running.client.is_serving()
    loop.run(running.encoder.start())
    until(lambda: running.client.is_serving("lookalike.encoder"))
    assert running.client.search(image=png(1)).neighbors


def test_the_clients_deadline_reaches_the_encoder(running: Running) -> None:
    running.encoder.delay = 600
    with Client(running.address, timeout=3) as hasty, pytest.raises(QueryFailed) as caught:
        hasty.search(image=png(1))
    assert caught.value.code == "DEADLINE_EXCEEDED"
    until(lambda: running.encoder.cancelled == 1)


def test_the_servers_own_limit_holds_where_a_client_gives_more(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    with Running(loop, collection, request_seconds=0.3) as running:
        running.client.wait_until_serving(60)
        running.encoder.delay = 600
        with pytest.raises(QueryFailed) as caught:
            running.client.search(image=png(1))
    assert (caught.value.code, caught.value.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")


# Releases


def test_before_the_first_release_nothing_is_served(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    with Running(loop, collection) as running:
        with pytest.raises(QueryFailed) as caught:
            running.client.search(vector=[1.0] * 16)
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "NO_RELEASE")
        assert running.client.is_serving("") and not running.client.is_serving()
        with pytest.raises(TimeoutError, match="does not serve a release"):
            running.client.wait_until_serving(0.2)
        collection.publish()
        running.client.wait_until_serving(60)
        assert running.client.search(vector=[1.0] * 16).neighbors


def test_a_first_release_waits_for_its_encoder(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    with Running(loop, collection, versions={}) as running:
        time.sleep(0.3)
        assert not running.client.is_serving()
        running.encoder.versions = {1: 0}
        running.client.wait_until_serving(60)


def test_a_new_release_is_taken_over_while_requests_run(running: Running) -> None:
    collection, image = running.collection, png(2000)
    first = collection.current
    answers: list = []
    stop = False

    def ask() -> None:
        with Client(running.address) as client:
            while not stop:
                answers.append(client.search(image=image, k=5))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask) for _ in range(3)]
        until(lambda: len(answers) >= 3)
        running.encoder.versions = {1: 0, 2: 9}
        second = collection.publish(seed=9, count=30)
        until(lambda: answers[-1].release_id == second)
        stop = True
        for future in asked:
            future.result()
    assert {(a.release_id, a.encoder_version) for a in answers} == {(first, 1), (second, 2)}
    for answer in answers:
        names = [n.item.item_id for n in answer.neighbors]
        seed = {first: 0, second: 9}[answer.release_id]
        query = embed([image], seed=seed)[0]
        assert names == [name for name, _ in collection.nearest(query, 5, release_id=answer.release_id)]


def test_a_rollback_is_followed(running: Running) -> None:
    first = running.collection.current
    running.encoder.versions = {1: 0, 2: 9}
    second = running.collection.publish(seed=9)
    until(lambda: running.client.get_release().release_id == second)
    running.collection.point_at(first)
    until(lambda: running.client.get_release().release_id == first)
    assert running.client.search(image=png(1)).encoder_version == 1


def test_a_release_whose_encoder_was_swapped_is_refused_and_the_old_one_goes_on(running: Running, caplog) -> None:
    first = running.collection.current
    # The weights that answer as version 2 are not those that the release was embedded with.
    running.encoder.versions = {1: 0, 2: 4}
    second = running.collection.publish(seed=9)
    until(lambda: second in running.refused)
    assert "probe" in running.refused[second]
    time.sleep(0.3)
    assert running.client.get_release().release_id == first
    assert running.client.search(image=png(1)).release_id == first
    assert [r.levelname for r in caplog.records if second in r.getMessage()] == ["ERROR"]


@pytest.mark.parametrize("part", ["embeddings", "items", "index"])
def test_a_release_with_a_flipped_byte_is_refused_and_the_old_one_goes_on(running: Running, part: str) -> None:
    first = running.collection.current
    second = running.collection.publish(count=30, flip=part)
    until(lambda: second in running.refused)
    assert running.client.search(image=png(1)).release_id == first
    third = running.collection.publish(count=31)
    until(lambda: running.client.get_release().release_id == third)


def test_a_passing_fault_is_tried_again(running: Running) -> None:
    running.encoder.versions = {1: 0}
    second = running.collection.publish(seed=9)
    time.sleep(0.3)
    assert running.client.get_release().release_id != second and not running.refused
    running.encoder.versions = {1: 0, 2: 9}
    until(lambda: running.client.get_release().release_id == second)


def test_a_current_that_names_nothing_leaves_the_served_release_alone(running: Running) -> None:
    first = running.collection.current
    for line in ("../../etc", "", "no-such-release"):
        (running.collection.root / "CURRENT").write_text(line)
        time.sleep(0.15)
        assert running.client.search(vector=[1.0] * 16).release_id == first
    running.encoder.versions = {1: 0, 2: 9}
    (running.collection.root / "CURRENT").write_text(first + "\n")
    second = running.collection.publish(seed=9)
    until(lambda: running.client.get_release().release_id == second)


def test_a_root_in_an_object_store(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    bucket = fsspec.filesystem("memory")
    bucket.put(str(collection.root), f"/{tmp_path.name}", recursive=True)
    with Running(loop, collection, serving_root=f"memory://{tmp_path.name}") as running:
        running.client.wait_until_serving(60)
        assert running.client.search(image=png(3)).neighbors[0].item.item_id == "item-3.png"


# The end


def test_drain_says_so_and_lets_running_requests_finish(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    with Running(loop, collection, drain_seconds=0.3) as running, grpc.insecure_channel(running.address) as channel:
        running.client.wait_until_serving(60)
        running.encoder.delay = 1.0
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            slow = pool.submit(running.client.search, image=png(1))
            until(lambda: len(running.encoder.asked) > 1)
            drained = pool.submit(running.drain)
            assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert running.client.search(vector=[1.0] * 16).neighbors, "still answering while NOT_SERVING spreads"
            watched.cancel()
            assert slow.result().neighbors
            drained.result()
        with Client(running.address) as late, pytest.raises(QueryFailed, match="no answer from the gateway at"):
            late.get_release()


def test_a_port_that_is_taken_is_not_shared(running: Running, loop: LoopThread) -> None:
    with pytest.raises(OSError, match="can't listen on"), Running(loop, running.collection, port=running.port):
        pass


def test_reflection_only_by_flag(steady: Running, loop: LoopThread) -> None:
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    list_services = b"\x3a\x00"

    def reflected(address: str) -> bytes:
        with grpc.insecure_channel(address) as channel:
            return next(channel.stream_stream(method)(iter([list_services]), timeout=30))

    with pytest.raises(grpc.RpcError):
        reflected(steady.address)
    with Running(loop, steady.collection, reflection=True) as running:
        assert b"lookalike.retrieval.v1.RetrievalService" in reflected(running.address)
