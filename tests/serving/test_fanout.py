"""A root over leaves, all of them real gateways: it answers as one process does, and says what is missing."""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serving.client import Answer, Deleted, NewItem, Query, QueryFailed, Upserted
from serving.gateway.options import Updates
from serving.release import layout
from serving.release.layout import shard_of
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
        root.wait_until_whole()
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


def test_a_batch_is_answered_as_one_process_does(both: tuple[FannedOut, Running]) -> None:
    root, one = both
    names = ("vector", "image", "item", "min_score", "filter", "collapse", "groups", "one")
    queries = [Query(**QUERIES[name]) for name in names]
    queries += [Query(item_id="nobody"), Query(vector=[1.0] * 3), Query(image=b"no image")]
    for answer, expected in zip(root.client.batch_search(queries), one.client.batch_search(queries), strict=True):
        if isinstance(expected, QueryFailed):
            assert isinstance(answer, QueryFailed)
            assert (answer.code, answer.reason, answer.field) == (expected.code, expected.reason, expected.field)
        else:
            assert answer == expected


def test_many_random_queries(both: tuple[FannedOut, Running]) -> None:
    root, one = both
    generator = np.random.default_rng(5)
    for _ in range(60):
        query = {
            "vector": generator.normal(size=16).tolist(),
            "k": int(generator.choice([1, 3, 10, 43])),
            "min_score": [None, 0.0, 0.3][generator.integers(3)],
            "filter": [None, "odd = true", f"number < {generator.integers(40)}"][generator.integers(3)],
            "collapse": [None, 0.7, 0.95][generator.integers(3)],
        }
        answer, expected = root.client.search(**query), one.client.search(**query)
        assert (answer.neighbors, answer.matching) == (expected.neighbors, expected.matching), query


def test_items_are_those_of_one_process(both: tuple[FannedOut, Running]) -> None:
    root, one = both
    for thumbnail in (False, True):
        for name in root.collection.images:
            assert root.client.get_item(name, thumbnail=thumbnail) == one.client.get_item(name, thumbnail=thumbnail)
    names = ["item-3.png", "nobody", "item-39.png", "item-3.png"]
    assert root.client.batch_get_items(names) == one.client.batch_get_items(names)
    assert root.client.batch_get_items(names)[1] is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.search(item_id="nobody"),
        lambda client: client.get_item("nobody"),
        lambda client: client.search(vector=[1.0] * 3),
        lambda client: client.search(vector=[0.0] * 16),
        lambda client: client.search(image=b"no image"),
        lambda client: client.search(vector=[1.0] * 16, k=0),
        lambda client: client.search(vector=[1.0] * 16, release_id="another"),
        lambda client: client.upsert("new.png", png(1)),
        lambda client: client.delete("item-3.png"),
    ],
)
def test_errors_are_those_of_one_process(both: tuple[FannedOut, Running], ask: Callable[[Any], Any]) -> None:
    failures = []
    for side in both:
        with pytest.raises(QueryFailed) as caught:
            ask(side.client)
        failures.append((caught.value.code, caught.value.reason, caught.value.field))
    assert failures[0] == failures[1]


def test_releases_and_embeddings_are_those_of_one_process(both: tuple[FannedOut, Running]) -> None:
    root, one = both
    assert root.client.get_release() == one.client.get_release()
    assert list(root.client.list_releases()) == list(one.client.list_releases())
    assert root.client.encode(png(5)) == one.client.encode(png(5))


# Leaves that are away


@pytest.fixture
def fanned(loop: LoopThread, tmp_path: pathlib.Path) -> Iterator[FannedOut]:
    """A root over four leaves, for tests that end and start them."""
    collection = Collection(tmp_path / "root")
    collection.publish(shards=SHARDS)
    with FannedOut(loop, collection, fan_out={"min_coverage": 0.3}) as fanned:
        fanned.wait_until_whole()
        yield fanned


def share_of(collection: Collection, *leaves: int, of: int = 4) -> tuple[set[str], float]:
    """Returns the ids of the items that some leaves hold, and what share of all that is."""
    names = list(collection.images)
    held = {name for name in names if shard_of(name, SHARDS) % of in leaves}
    return held, len(held) / len(names)


def test_what_a_leaf_that_is_away_holds_is_missing_and_the_answer_says_so(fanned: FannedOut) -> None:
    fanned.stop_leaf(1)
    held, coverage = share_of(fanned.collection, 0, 2, 3)
    answer = fanned.client.search(vector=[1.0] * 16, k=1000)
    assert {neighbor.item.item_id for neighbor in answer.neighbors} == held
    assert answer.coverage == pytest.approx(coverage, abs=1e-6) and answer.degraded
    answer = fanned.client.search(vector=[1.0] * 16, k=1000, filter="number >= 0", collapse=1.0)
    assert answer.matching == len(held) and answer.coverage == pytest.approx(coverage, abs=1e-6)
    [answer] = fanned.client.batch_search([Query(image=png(3), k=1000)])
    assert isinstance(answer, Answer) and answer.coverage == pytest.approx(coverage, abs=1e-6)


def test_a_leaf_that_is_back_is_asked_again(fanned: FannedOut) -> None:
    fanned.stop_leaf(1)
    assert fanned.client.search(vector=[1.0] * 16).degraded
    fanned.start_leaf(1)
    until(lambda: not fanned.client.search(vector=[1.0] * 16).degraded)


def test_an_item_of_a_leaf_that_is_away_can_not_be_asked_by(fanned: FannedOut) -> None:
    fanned.stop_leaf(2)
    there, _ = share_of(fanned.collection, 0, 1, 3)
    away = next(name for name in fanned.collection.images if name not in there)
    for ask in (fanned.client.search, fanned.client.get_item, lambda item_id: fanned.client.batch_get_items([item_id])):
        with pytest.raises(QueryFailed) as caught:
            ask(item_id=away)
        assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "LEAF_UNAVAILABLE")
    name = sorted(there)[0]
    assert fanned.client.search(item_id=name, k=1000).degraded
    assert fanned.client.get_item(name).item_id == name
    failed, answer = fanned.client.batch_search([Query(item_id=away), Query(item_id=name)])
    assert isinstance(failed, QueryFailed) and failed.reason == "LEAF_UNAVAILABLE"
    assert isinstance(answer, Answer) and answer.degraded


def test_too_little_of_the_index_is_no_answer(fanned: FannedOut) -> None:
    assert fanned.client.is_serving()
    for leaf in (0, 1, 2):
        fanned.stop_leaf(leaf)
    _, coverage = share_of(fanned.collection, 3)
    assert coverage < 0.3
    with pytest.raises(
        QueryFailed, match=r"only 0\.\d+ of the items can be searched now, and 0\.3 is the least"
    ) as caught:
        fanned.client.search(vector=[1.0] * 16)
    assert (caught.value.code, caught.value.reason) == ("UNAVAILABLE", "COVERAGE_TOO_LOW")
    until(lambda: not fanned.client.is_serving())
    fanned.start_leaf(0)
    fanned.start_leaf(1)
    until(fanned.client.is_serving)
    coverage = pytest.approx(share_of(fanned.collection, 0, 1, 3)[1])
    until(lambda: fanned.client.search(vector=[1.0] * 16).coverage == coverage)


def test_a_leaf_that_is_taken_for_another_is_not_asked(loop: LoopThread, tmp_path: pathlib.Path, caplog: Any) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish(shards=SHARDS)
    with FannedOut(loop, collection, fan_out={"min_coverage": 0.3}, swapped=(1, 2)) as fanned:
        until(fanned.client.is_serving)
        held, _ = share_of(collection, 0, 3)
        answer = fanned.client.search(vector=[1.0] * 16, k=1000)
        assert {neighbor.item.item_id for neighbor in answer.neighbors} == held and answer.degraded
    assert "it holds the share 2/4 and not 1/4." in caplog.text


def test_a_release_of_fewer_shards_than_leaves(loop: LoopThread, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish(shards=2)
    with FannedOut(loop, collection) as fanned:
        fanned.wait_until_whole()
        answer = fanned.client.search(vector=[1.0] * 16, k=1000)
        assert len(answer.neighbors) == len(collection.images) and not answer.degraded


# Releases


@pytest.mark.slow
def test_every_leaf_changes_over_and_no_answer_is_of_two_releases(loop: LoopThread, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    first = collection.publish(shards=SHARDS)
    with FannedOut(loop, collection, versions={1: 0, 2: 9}) as fanned:
        fanned.wait_until_whole()
        second = collection.publish(seed=9, count=30, shards=3)
        seen = []
        vector = np.ones(16)
        while not seen or seen[-1] != second:
            answer = fanned.client.search(vector=vector.tolist(), k=1000)
            assert not answer.degraded
            expected = collection.nearest(vector / 4, 1000, release_id=answer.release_id)
            assert [n.item.item_id for n in answer.neighbors] == [name for name, _ in expected]
            seen.append(answer.release_id)
        assert seen == sorted(seen, key=[first, second].index)
        assert fanned.client.search(vector=vector.tolist(), release_id=first, k=1000).coverage == 1.0
        collection.point_at(first)
        until(lambda: fanned.client.get_release().release_id == first)
        assert not fanned.client.search(image=png(3)).degraded


@pytest.mark.slow
def test_a_release_waits_for_the_leaf_that_has_not_loaded_it(loop: LoopThread, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    first = collection.publish(shards=SHARDS)
    with FannedOut(loop, collection, fan_out={"min_coverage": 0.3}, versions={1: 0, 2: 9}) as fanned:
        fanned.wait_until_whole()
        # One leaf finds its part damaged and goes on with the old one.
        second = collection.publish(seed=9, shards=SHARDS, flip=layout.index_folder(1, SHARDS))
        until(lambda: fanned.leaves[1, 0]._watcher.refused != {})
        until(lambda: all(fanned.leaves[leaf, 0]._watcher._is_held(second) for leaf in (0, 2, 3)))
        answer = fanned.client.search(vector=[1.0] * 16, k=1000)
        assert (answer.release_id, answer.coverage) == (first, 1.0)
        # When the others don't hold the old one any more, there is more of the new one.
        for leaf in (0, 2, 3):
            fanned.stop_leaf(leaf)
            fanned.start_leaf(leaf)
        until(lambda: fanned.client.get_release().release_id == second)
        coverage = pytest.approx(share_of(collection, 0, 2, 3)[1])
        until(lambda: fanned.client.search(vector=[1.0] * 16).coverage == coverage)


# Updates


@pytest.fixture(scope="module")
def taking(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FannedOut, Running]]:
    """A root over leaves, and one process, that take updates of one serving root."""
    collection = Collection(tmp_path_factory.mktemp("taking"))
    collection.publish(shards=SHARDS)
    updates = Updates(allow_updates=True, journal_seconds=0.05)
    with FannedOut(loop, collection, updates=updates) as fanned, Running(loop, collection, updates=updates) as one:
        fanned.wait_until_whole()
        one.client.wait_until_serving(60)
        yield fanned, one


def everything(client: Any) -> Any:
    return client.search(vector=[1.0] * 16, k=1000).neighbors


def test_what_a_root_takes_is_found_at_once_and_by_others_soon(taking: tuple[FannedOut, Running]) -> None:
    fanned, one = taking
    for i in range(6):
        name = f"ours-{i}.png"
        upserted = fanned.client.upsert(name, png(2000 + i), {"label": "ours", "number": i})
        assert not upserted.replaced and upserted.release_id == fanned.collection.current
        found = fanned.client.search(image=png(2000 + i), k=1).neighbors[0]
        assert (found.item.item_id, found.item.sha256) == (name, upserted.sha256)
        assert fanned.client.get_item(name).attributes == {"label": "ours", "number": i}
    assert fanned.client.upsert("item-5.png", png(2100)).replaced
    assert fanned.client.delete("item-6.png").found and not fanned.client.delete("nobody").found
    answer = fanned.client.search(item_id="ours-0.png", k=1000, filter='label = "ours"')
    assert len(answer.neighbors) == 5 and answer.matching == 6
    with pytest.raises(QueryFailed, match="has no item"):
        fanned.client.get_item("item-6.png")
    until(lambda: everything(fanned.client) == everything(one.client))


def test_a_batch_of_changes_goes_to_the_leaves_of_each(taking: tuple[FannedOut, Running]) -> None:
    fanned, one = taking
    items = [NewItem(f"batch-{i}.png", png(2200 + i)) for i in range(9)]
    items[4] = NewItem("batch-4.png", b"no image")
    outcomes = fanned.client.batch_upsert(items)
    for i, outcome in enumerate(outcomes):
        if i == 4:
            assert isinstance(outcome, QueryFailed)
            assert (outcome.code, outcome.reason, outcome.field) == ("INVALID_ARGUMENT", "INVALID_QUERY", "image")
        else:
            assert isinstance(outcome, Upserted) and outcome.item_id == f"batch-{i}.png"
    [failed] = fanned.client.batch_upsert([NewItem("x" * 2000, png(1))])
    assert isinstance(failed, QueryFailed) and failed.field == "item_id"
    deleted = fanned.client.batch_delete([f"batch-{i}.png" for i in range(5)])
    assert [isinstance(outcome, Deleted) and outcome.found for outcome in deleted] == [True] * 4 + [False]
    until(lambda: everything(fanned.client) == everything(one.client))


def test_what_another_gateway_takes_is_found_through_the_leaves(taking: tuple[FannedOut, Running]) -> None:
    fanned, one = taking
    names = [f"theirs-{i}.png" for i in range(8)]
    for i, name in enumerate(names):
        one.client.upsert(name, png(2300 + i), {"label": "theirs"})
    one.client.delete("item-3.png")
    until(lambda: everything(fanned.client) == everything(one.client))
    answer = fanned.client.search(item_id=names[0], k=1000, filter='label = "theirs"')
    assert {neighbor.item.item_id for neighbor in answer.neighbors} == set(names[1:]) and answer.matching == 8


def test_a_change_of_what_a_leaf_that_is_away_holds_is_not_taken(loop: LoopThread, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish(shards=SHARDS)
    updates = Updates(allow_updates=True, journal_seconds=0.05)
    with FannedOut(loop, collection, updates=updates, fan_out={"min_coverage": 0.3}) as fanned:
        fanned.wait_until_whole()
        fanned.stop_leaf(2)
        there, _ = share_of(collection, 0, 1, 3)
        outcomes = fanned.client.batch_delete(list(collection.images))
        for name, outcome in zip(collection.images, outcomes, strict=True):
            taken = isinstance(outcome, Deleted) and outcome.found
            assert taken == (name in there)
            assert taken or (isinstance(outcome, QueryFailed) and outcome.reason == "LEAF_UNAVAILABLE")
        fanned.start_leaf(2)
        left = set(collection.images) - there
        until(lambda: {neighbor.item.item_id for neighbor in everything(fanned.client)} == left)
