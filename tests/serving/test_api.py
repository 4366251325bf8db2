"""Filters, collapse, batches, pins and lists over a real gateway: what test_gateway.py leaves to say of the API."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import hypothesis
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import strategies as st

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import FilterSyntaxError, Query, QueryFailed
from serving.search.filters import AnyOf, Comparison, Operator
from tests.serving.collection import Collection
from tests.serving.fake_model_server import embed
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.running import Running

SERVICE = "/lookalike.retrieval.v1.RetrievalService"
VECTOR = [1.0] * 16


@pytest.fixture(scope="module")
def steady(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway over one release, for tests that leave it as it is."""
    collection = Collection(tmp_path_factory.mktemp("steady"))
    # Three copies of one picture, under ids of their own.
    for name in ("item-100.png", "item-101.png"):
        collection.images[name] = collection.images["item-3.png"]
    collection.groups = {f"item-{i}.png": "item-17.png" for i in (7, 17, 27)}
    collection.publish()
    with Running(loop, collection) as running:
        running.client.wait_until_serving(60)
        yield running


@pytest.fixture
def two(loop: LoopThread, tmp_path: Any) -> Iterator[tuple[Running, str, str]]:
    """A gateway that went from one release to another, and their ids."""
    collection = Collection(tmp_path / "root")
    first = collection.publish()
    with Running(loop, collection, versions={1: 0, 2: 9}) as running:
        running.client.wait_until_serving(60)
        second = collection.publish(seed=9, count=30)
        until(lambda: running.client.get_release().release_id == second)
        yield running, first, second


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def refused(ask: Callable[[], Any]) -> QueryFailed:
    with pytest.raises(QueryFailed) as caught:
        ask()
    return caught.value


# Filters, minimal scores, collapse


def test_a_filter_as_text_or_as_a_tree(steady: Running) -> None:
    image = png(1000)
    ranked = [name for name, _ in steady.collection.nearest(embed([image])[0], 100)]
    wanted = [name for name in ranked if int(name[5:-4]) % 10 == 3 or int(name[5:-4]) > 98]
    tree = AnyOf((Comparison("label", Operator.EQUAL, ("3",)), Comparison("number", Operator.GREATER, (98,))))
    for filter_ in ('label = "3" or number > 98', tree):
        answer = steady.client.search(image=image, filter=filter_, k=100)
        assert [n.item.item_id for n in answer.neighbors] == wanted
        assert (answer.matching, answer.method) == (len(wanted), "exact_filtered")
    plain = steady.client.search(image=image, k=3)
    assert (plain.matching, plain.method) == (None, "exact")


def test_a_filter_that_nothing_matches(steady: Running) -> None:
    answer = steady.client.search(vector=VECTOR, filter="label = 3")
    assert (answer.neighbors, answer.matching) == ((), 0)


def test_a_filter_that_is_none_names_the_path(steady: Running) -> None:
    bad = retrieval_pb2.Filter(comparison=retrieval_pb2.Comparison(attribute="a", operator=retrieval_pb2.OPERATOR_LESS))
    good = retrieval_pb2.Filter(negated=retrieval_pb2.Filter(all_of=retrieval_pb2.FilterList(filters=[bad])))
    request = retrieval_pb2.SearchRequest(vector=retrieval_pb2.Vector(values=VECTOR), k=1, filter=good)
    failed = refused(lambda: steady.client._call(steady.client._stub.Search, request))
    assert (failed.code, failed.field) == ("INVALID_ARGUMENT", "filter.negated.all_of.filters[0].comparison.values")
    with pytest.raises(FilterSyntaxError, match="text stands in quotes"):
        steady.client.search(vector=VECTOR, filter="label = x")


def test_min_score(steady: Running) -> None:
    answer = steady.client.search(vector=VECTOR, k=100)
    bar = answer.neighbors[4].score
    assert steady.client.search(vector=VECTOR, k=100, min_score=bar).neighbors == answer.neighbors[:5]


def test_collapse_counts_and_names_the_copies(steady: Running) -> None:
    image = steady.collection.images["item-3.png"]
    answer = steady.client.search(image=image, k=5, collapse=1.0)
    assert len(answer.neighbors) == 5
    # Of equals the first by id represents them.
    best = answer.neighbors[0]
    assert (best.item.item_id, best.collapsed) == ("item-100.png", 2)
    assert best.collapsed_ids == ("item-101.png", "item-3.png")
    assert all(n.collapsed == 0 and n.collapsed_ids == () for n in answer.neighbors[1:])
    of_item = steady.client.search(item_id="item-3.png", k=1, collapse=1.0).neighbors[0]
    assert (of_item.item.item_id, of_item.collapsed_ids) == ("item-100.png", ("item-101.png",))


def test_groups_collapse_and_are_told(steady: Running) -> None:
    image = steady.collection.images["item-7.png"]
    answer = steady.client.search(image=image, k=50, collapse_groups=True)
    best = answer.neighbors[0]
    assert (best.item.item_id, best.item.duplicate_group, best.collapsed) == ("item-7.png", "item-17.png", 2)
    assert set(best.collapsed_ids) == {"item-17.png", "item-27.png"}
    assert sum(1 + n.collapsed for n in answer.neighbors) == 42
    assert sum(n.collapsed for n in answer.neighbors[1:]) == 0, "copies of other ids that no build has grouped stay"
    by_id = steady.client.search(item_id="item-17.png", k=1, collapse_groups=True).neighbors[0]
    assert by_id.collapsed + (by_id.item.duplicate_group == "item-17.png") in (0, 2)
    assert steady.client.get_item("item-27.png").duplicate_group == "item-17.png"
    assert steady.client.get_item("item-3.png").duplicate_group == ""


def test_only_one_way_to_collapse(steady: Running) -> None:
    failed = refused(lambda: steady.client.search(vector=VECTOR, collapse=0.9, collapse_groups=True))
    assert (failed.code, failed.field) == ("INVALID_ARGUMENT", "collapse_groups")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"min_score": 1.5}, "min_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"collapse": 0.0}, "collapse_score"),
        ({"collapse": 1.01}, "collapse_score"),
        ({"collapse": float("nan")}, "collapse_score"),
    ],
)
def test_a_score_that_is_none(steady: Running, arguments: dict[str, float], field: str) -> None:
    failed = refused(lambda: steady.client.search(vector=VECTOR, **arguments))
    assert (failed.code, failed.field) == ("INVALID_ARGUMENT", field)


# Batches


def test_a_batch_answers_each_query_as_a_search_does(steady: Running) -> None:
    asked = len(steady.encoder.asked)
    queries = [
        Query(image=png(1000), k=3),
        Query(vector=VECTOR, k=2, filter='label = "3"'),
        Query(item_id="item-3.png", k=4, collapse=1.0),
        Query(vector=VECTOR, k=40, collapse_groups=True),
        Query(image=png(1001), k=1, min_score=-1.0),
        Query(image=steady.collection.images["item-5.png"]),
    ]
    outcomes = steady.client.batch_search(queries)
    assert steady.encoder.asked[asked:] == [(1, 3)], "three images in one call"
    for query, outcome in zip(queries, outcomes, strict=True):
        alone = steady.client.search(**vars(query))
        assert not isinstance(outcome, QueryFailed)
        assert outcome.neighbors == alone.neighbors
        assert (outcome.method, outcome.matching) == (alone.method, alone.matching)
        assert (outcome.release_id, outcome.search_seconds) == (alone.release_id, 0)


def test_a_bad_query_costs_only_itself(steady: Running) -> None:
    bad = {
        "k": Query(vector=VECTOR, k=0),
        "vector": Query(vector=[1.0]),
        "image": Query(image=b"no image"),
        "collapse_score": Query(vector=VECTOR, collapse=2.0),
        "release_id": Query(vector=VECTOR, release_id="another"),
        "": Query(item_id="nobody"),
    }
    queries = [
        query for pair in zip(bad.values(), [Query(image=png(i)) for i in range(6)], strict=True) for query in pair
    ]
    outcomes = steady.client.batch_search(queries)
    for field, outcome in zip(bad, outcomes[::2], strict=True):
        assert isinstance(outcome, QueryFailed)
        assert (outcome.field, outcome.code) == (field, "INVALID_ARGUMENT" if field else "NOT_FOUND")
        assert outcome.reason == ("INVALID_QUERY" if field else "ITEM_NOT_FOUND")
    assert not any(isinstance(outcome, QueryFailed) for outcome in outcomes[1::2])
    assert outcomes[1].neighbors[0].item.item_id == "item-0.png"


def test_the_error_of_a_query_is_a_google_rpc_status(steady: Running) -> None:
    request = retrieval_pb2.BatchSearchRequest(requests=[retrieval_pb2.SearchRequest(k=-1)])
    response = steady.client._call(steady.client._stub.BatchSearch, request)
    status = status_pb2.Status.FromString(response.results[0].error.SerializeToString())
    violation = error_details_pb2.BadRequest()
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert any(detail.Unpack(violation) for detail in status.details)
    assert violation.field_violations[0].field == "query"


def test_an_image_that_the_encoder_refuses_costs_only_itself(steady: Running) -> None:
    steady.encoder.rejects = {png(77)}
    try:
        outcomes = steady.client.batch_search([Query(image=png(76)), Query(image=png(77)), Query(image=png(5))])
    finally:
        steady.encoder.rejects = set()
    assert [isinstance(outcome, QueryFailed) for outcome in outcomes] == [False, True, False]
    assert (outcomes[1].reason, outcomes[1].field) == ("IMAGE_REJECTED", "image")
    assert outcomes[2].neighbors[0].item.item_id == "item-5.png"


def test_without_the_encoder_only_images_fail(steady: Running) -> None:
    steady.encoder.fails_with = grpc.StatusCode.UNAVAILABLE
    try:
        outcomes = steady.client.batch_search([Query(image=png(1)), Query(vector=VECTOR), Query(item_id="item-1.png")])
    finally:
        steady.encoder.fails_with = None
    assert isinstance(outcomes[0], QueryFailed)
    assert (outcomes[0].code, outcomes[0].reason, outcomes[0].retry_seconds) == (
        "UNAVAILABLE",
        "ENCODER_UNAVAILABLE",
        1,
    )
    assert outcomes[1].neighbors and outcomes[2].neighbors


def test_as_many_images_as_a_batch_may_hold(steady: Running) -> None:
    """More than the queue of the workers is long."""
    outcomes = steady.client.batch_search([Query(image=png(i % 40), k=1) for i in range(256)])
    assert [outcome.neighbors[0].score > 0.999 for outcome in outcomes] == [True] * 256


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([], "a batch must hold 1 to 256 requests, got 0"),
        ([Query(vector=VECTOR)] * 257, "a batch must hold 1 to 256 requests, got 257"),
        ([Query(vector=VECTOR, k=1000)] * 26, "the k of a batch may sum up to 25600, got 26000"),
    ],
)
def test_a_batch_that_is_too_large(steady: Running, queries: list[Query], message: str) -> None:
    failed = refused(lambda: steady.client.batch_search(queries))
    assert (failed.code, failed.field) == ("INVALID_ARGUMENT", "requests")
    assert message in str(failed)


# Items


def test_items_in_the_order_of_their_ids_or_not_there(steady: Running) -> None:
    ids = ["item-7.png", "nobody", "item-1.png", "", "item-7.png"]
    items = steady.client.batch_get_items(ids, thumbnails=True)
    assert [item and item.item_id for item in items] == ["item-7.png", None, "item-1.png", None, "item-7.png"]
    assert items[0] == steady.client.get_item("item-7.png", thumbnail=True)
    assert steady.client.batch_get_items(["item-7.png"])[0] == steady.client.get_item("item-7.png")


def test_a_thousand_items_are_the_limit(steady: Running) -> None:
    assert steady.client.batch_get_items(["nobody"] * 1000) == [None] * 1000
    for ids in ([], ["nobody"] * 1001):
        failed = refused(lambda ids=ids: steady.client.batch_get_items(ids))
        assert (failed.code, failed.field) == ("INVALID_ARGUMENT", "item_ids")


# Pins


def test_a_pinned_release_answers_while_it_is_held(two: tuple[Running, str, str]) -> None:
    running, first, second = two
    client, image = running.client, png(2000)
    for release_id, seed, version in ((first, 0, 1), (second, 9, 2), ("", 9, 2)):
        answer = client.search(image=image, k=5, release_id=release_id)
        assert (answer.release_id, answer.encoder_version) == (release_id or second, version)
        expected = running.collection.nearest(embed([image], seed=seed)[0], 5, release_id=answer.release_id)
        assert [n.item.item_id for n in answer.neighbors] == [name for name, _ in expected]
        [outcome] = client.batch_search([Query(image=image, k=5, release_id=release_id)], release_id=release_id)
        assert outcome.neighbors == answer.neighbors
        embedding = client.encode(image, release_id=release_id)
        np.testing.assert_array_equal(np.float32(embedding.values), embed([image], seed=seed)[0])
    assert client.get_item("item-35.png", release_id=first).item_id == "item-35.png"
    assert client.batch_get_items(["item-35.png"], release_id=first)[0] is not None
    assert client.batch_get_items(["item-35.png"]) == [None]


def test_a_release_that_is_not_held_is_a_failed_precondition(two: tuple[Running, str, str]) -> None:
    client = two[0].client
    for ask in (
        lambda: client.search(vector=VECTOR, release_id="r0"),
        lambda: client.batch_search([Query(vector=VECTOR)], release_id="r0"),
        lambda: client.encode(png(1), release_id="../r0"),
        lambda: client.get_item("item-1.png", release_id="r0"),
        lambda: client.batch_get_items(["item-1.png"], release_id="r0"),
    ):
        failed = refused(ask)
        assert (failed.code, failed.reason) == ("FAILED_PRECONDITION", "RELEASE_NOT_HELD")


def test_the_release_before_is_given_up_in_time(loop: LoopThread, tmp_path: Any) -> None:
    collection = Collection(tmp_path / "root")
    first = collection.publish()
    with Running(loop, collection, versions={1: 0, 2: 9}, keep_seconds=0.5) as running:
        running.client.wait_until_serving(60)
        collection.publish(seed=9)
        until(lambda: running.client.get_release(first).state == "held")
        until(lambda: running.client.get_release(first).state == "stored")
        failed = refused(lambda: running.client.search(vector=VECTOR, release_id=first))
        assert failed.code == "FAILED_PRECONDITION"


def test_back_to_a_release_that_is_held_is_not_loaded_again(two: tuple[Running, str, str], monkeypatch: Any) -> None:
    running, first, second = two
    monkeypatch.setattr("serving.gateway.watcher.open_release", None)
    running.collection.point_at(first)
    until(lambda: running.client.get_release().release_id == first)
    assert running.client.get_release(second).state == "held"
    assert running.client.search(image=png(1), k=1).encoder_version == 1


def test_back_to_a_held_release_whose_encoder_was_swapped_is_refused(two: tuple[Running, str, str]) -> None:
    running, first, second = two
    running.encoder.versions = {1: 4, 2: 9}
    running.collection.point_at(first)
    until(lambda: first in running.refused)
    assert running.client.get_release().release_id == second


# Releases


def test_releases_are_listed_newest_first(two: tuple[Running, str, str]) -> None:
    running, first, second = two
    broken = running.collection.publish(count=31, flip="items")
    until(lambda: broken in running.refused)
    (running.collection.root / "releases" / "unreadable").mkdir()
    (running.collection.root / "releases" / "unreadable" / "release.json").write_text("{}")
    (running.collection.root / "releases" / "being-published").mkdir()
    listed = list(running.client.list_releases())
    states = {release.release_id: (release.state, release.current) for release in listed}
    assert states == {
        broken: ("refused", True),
        second: ("served", False),
        first: ("held", False),
        "unreadable": ("refused", False),
    }
    assert [r.release_id for r in listed] == [*sorted([first, second, broken], reverse=True), "unreadable"]
    problems = {release.release_id: release.problem for release in listed}
    assert "sha256" in problems[broken] and "not a release manifest" in problems["unreadable"]
    assert problems[first] == problems[second] == ""
    for size in (1, 2, 3, 4, 1000, 2000):
        assert list(running.client.list_releases(page_size=size)) == listed
    for release in listed:
        assert running.client.get_release(release.release_id) == release


def test_a_page_may_be_asked_for_while_releases_come_and_go(two: tuple[Running, str, str]) -> None:
    running, first, second = two
    ask = running.client._stub.ListReleases
    page = ask(retrieval_pb2.ListReleasesRequest(page_size=1))
    assert [r.release_id for r in page.releases] == [second]
    third = running.collection.publish(count=12)
    until(lambda: running.client.get_release().release_id == third)
    page = ask(retrieval_pb2.ListReleasesRequest(page_size=1, page_token=page.next_page_token))
    assert [r.release_id for r in page.releases] == [first] and not page.next_page_token


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (retrieval_pb2.ListReleasesRequest(page_size=-1), "page_size"),
        (retrieval_pb2.ListReleasesRequest(page_token="x"), "page_token"),
        (retrieval_pb2.ListReleasesRequest(page_token="ä"), "page_token"),
        (retrieval_pb2.ListReleasesRequest(page_token="W10="), "page_token"),
    ],
)
def test_a_page_that_cannot_be(steady: Running, request_: Any, field: str) -> None:
    failed = refused(lambda: steady.client._call(steady.client._stub.ListReleases, request_))
    assert (failed.code, failed.field) == ("INVALID_ARGUMENT", field)


@pytest.mark.parametrize("release_id", ["nobody", "../../etc", "x" * 5000, "a\0b"])
def test_a_release_that_nobody_has(steady: Running, release_id: str) -> None:
    failed = refused(lambda: steady.client.get_release(release_id))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "RELEASE_NOT_FOUND")


def test_the_served_release_is_known_where_the_root_is_not(loop: LoopThread, tmp_path: Any) -> None:
    collection = Collection(tmp_path / "root")
    first = collection.publish()
    with Running(loop, collection) as running:
        running.client.wait_until_serving(60)
        (collection.root / "releases").rename(collection.root / "aside")
        assert running.client.get_release().release_id == first
        assert [release.release_id for release in running.client.list_releases()] == [first]
        # Reading it fails, and not because it isn't there.
        (collection.root / "releases" / "r9" / "release.json").mkdir(parents=True)
        failed = refused(lambda: list(running.client.list_releases()))
        assert (failed.code, failed.reason, failed.retry_seconds) == ("UNAVAILABLE", "STORE_UNAVAILABLE", 5)
        assert str(tmp_path) not in str(failed)


@hypothesis.given(
    data=st.binary(max_size=300),
    method=st.sampled_from(["Search", "BatchSearch", "BatchGetItems", "GetRelease", "ListReleases"]),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_whatever_bytes_come_nothing_is_internal(steady: Running, data: bytes, method: str) -> None:
    try:
        steady.raw(f"{SERVICE}/{method}")(data, timeout=30)
    except grpc.RpcError as error:
        expected = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")
        assert error.code().name in expected
