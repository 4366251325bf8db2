"""What is put together from parts is, byte for byte in meaning, what protobuf would have made of the whole."""

import random
import struct

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lookalike.retrieval.v1 import retrieval_pb2
from serving.gateway import conversion, wire


def item(size: int) -> retrieval_pb2.Item:
    value = retrieval_pb2.AttributeValue(int_value=-1)
    return retrieval_pb2.Item(item_id="x" * size, width=16, attributes={"a": value} if size % 2 else {})


def response(sizes: list[int]) -> tuple[retrieval_pb2.SearchResponse, bytes]:
    rest = retrieval_pb2.SearchResponse(release_id="r1", encoder_version=2**40, method=2, matching_count=0)
    whole = retrieval_pb2.SearchResponse()
    whole.CopyFrom(rest)
    parts, scores, extras = [], [], []
    for number, size in enumerate(sizes):
        more = retrieval_pb2.Neighbor(collapsed_count=number % 3, collapsed_item_ids=["a"] * (number % 3))
        score = random.Random(number).uniform(-1, 1) if number else 0.0
        neighbor = whole.neighbors.add(item=item(size), score=score)
        neighbor.MergeFrom(more)
        parts.append(wire.item(item(size).SerializeToString()))
        scores.append(score)
        extras.append(more.SerializeToString())
    return whole, wire.search_response(parts, scores, extras if any(extras) else [], rest.SerializeToString())


@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], list(range(100, 140)), [16_370, 16_380, 16_390], [3_000_000]])
def test_a_search_response(sizes: list[int]) -> None:
    whole, data = response(sizes)
    assert retrieval_pb2.SearchResponse.FromString(data) == whole


@hypothesis.given(outcomes=st.lists(st.one_of(st.none(), st.lists(st.integers(0, 300), max_size=4)), max_size=6))
def test_a_batch_response(outcomes: list[list[int] | None]) -> None:
    whole = retrieval_pb2.BatchSearchResponse(release_id="r1")
    results = []
    for sizes in outcomes:
        if sizes is None:
            error = retrieval_pb2.Status(code=3, message="no")
            whole.results.add(error=error)
            results.append((False, error.SerializeToString()))
        else:
            answer, data = response(sizes)
            whole.results.add(response=answer)
            results.append((True, data))
    data = wire.batch_response(results, retrieval_pb2.BatchSearchResponse(release_id="r1").SerializeToString())
    assert retrieval_pb2.BatchSearchResponse.FromString(data) == whole


@pytest.mark.parametrize("whole", [retrieval_pb2.SearchResponse(), retrieval_pb2.BatchSearchResponse()])
def test_timings(whole: retrieval_pb2.SearchResponse) -> None:
    whole.timings.encode_seconds, whole.timings.search_seconds = 0.125, 1e-5
    assert type(whole).FromString(wire.timings(0.0, 0.125, 1e-5)) == whole


@pytest.mark.parametrize("count", [0, 1, 31, 32, 64, 5000])
def test_a_vector_is_read_as_it_was_sent(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count).astype(np.float32).tolist()
    vector = retrieval_pb2.Vector(values=values)
    # What a client writes that knows another field of a vector, and one that writes values one by one.
    newer = retrieval_pb2.Vector.FromString(vector.SerializeToString() + b"\x7a\x05later")
    single = retrieval_pb2.Vector.FromString(b"".join(b"\x0d" + struct.pack("<f", value) for value in values))
    for sent in (vector, newer, single):
        query = conversion.to_query(retrieval_pb2.SearchRequest(vector=sent, k=1))
        assert query.vector.dtype == np.float32 and query.vector.tolist() == values
