"""A release by rows: the same answers, however many shards it lies in."""

import dataclasses
import pathlib

import numpy as np
import pytest

from serving.index import IndexParameters
from serving.release.reader import Release, open_release
from serving.storage import open_store
from tests.serving.release_builder import build_release, make_items, unit_vectors

COUNT = 60
ITEMS = make_items(COUNT)
EMBEDDINGS = unit_vectors(COUNT, 8)
# Half of all in twos, so that ties cross the shards.
EMBEDDINGS[30:] = EMBEDDINGS[:30]


@pytest.fixture(params=[(1, "brute_force"), (2, "brute_force"), (5, "brute_force"), (1, "hamming"), (2, "hamming")])
def release(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Release:
    shards, kind = request.param
    # A short list that holds them all, so that it misses none.
    parameters = IndexParameters(kind, reorder=COUNT)
    release_id = build_release(
        tmp_path / "root", items=ITEMS, embeddings=EMBEDDINGS, shards=shards, parameters=parameters
    )
    return open_release(open_store(tmp_path / "root"), release_id)


def ids(release: Release, rows: np.ndarray) -> list[str]:
    return [item.item_id for item in release.items(rows.tolist())]


def test_a_row_is_one_item(release: Release) -> None:
    rows = release.rows_of([item.item_id for item in ITEMS] + ["nobody"])
    assert sorted(rows.values()) == list(range(COUNT)) and release.count == COUNT
    assert all(release.row_of(name) == row for name, row in rows.items()) and release.row_of("nobody") is None
    order = [rows[item.item_id] for item in ITEMS]
    assert release.items(order, thumbnails=True) == ITEMS
    assert release.items(order[:3]) == [dataclasses.replace(item, thumbnail=b"") for item in ITEMS[:3]]
    assert release.items([]) == [] and release.rows_of([]) == {}
    np.testing.assert_array_equal(release.vectors(np.array(order)), EMBEDDINGS)
    assert release.vectors(np.array([], np.int64)).shape == (0, 8)


def test_nearest_among_some_is_brute_force_over_them(release: Release) -> None:
    chosen = ITEMS[::2] + ITEMS[1:8]
    rows = np.sort(list(release.rows_of([item.item_id for item in chosen]).values()))
    for query in unit_vectors(3, 8, seed=4):
        scores = {item.item_id: float((EMBEDDINGS[int(item.item_id[6:10])] * query).sum()) for item in chosen}
        expected = sorted(scores, key=lambda name: (-scores[name], name))
        for k in (1, 3, len(chosen), 1000):
            found, values = release.nearest_among(query, k, rows)
            assert ids(release, found) == expected[:k]
            np.testing.assert_allclose(values, [scores[name] for name in expected[:k]], atol=1e-6)
    assert len(release.nearest_among(query, 5, rows[:0])[0]) == 0


def test_nearest_is_nearest_among_all(release: Release) -> None:
    query = unit_vectors(1, 8, seed=4)[0]
    for k in (1, 7, COUNT):
        rows, scores = release.nearest(query, k)
        among, values = release.nearest_among(query, k, np.arange(COUNT))
        assert ids(release, rows) == ids(release, among)
        np.testing.assert_array_equal(scores, values)
        without, _ = release.nearest(query, k, int(rows[0]), effort=3)
        assert ids(release, without)[: k - 1] == ids(release, rows)[1:]


def test_many_at_once_are_answered_as_one_by_one(release: Release) -> None:
    queries = np.concatenate([unit_vectors(300, 8, seed=5), EMBEDDINGS[:10]])
    for k in (1, 7, 29, COUNT, 1000):
        rows, scores = release.nearest_each(queries, k)
        for query, found, values in zip(queries, rows, scores, strict=True):
            expected, exact = release.nearest(query, k)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(values, exact)
    assert release.nearest_each(queries[:0], 3)[0].shape == (0, 3)


def test_where_is_a_mask_of_rows(release: Release) -> None:
    query = "SELECT row FROM attributes WHERE name = ? AND value < ?"
    mask = release.where(query, ("number", 7))
    assert mask.dtype == np.bool_ and mask.shape == (COUNT,)
    assert sorted(ids(release, np.flatnonzero(mask))) == [item.item_id for item in ITEMS[:7]]
    assert not release.where(query, ("number", -1)).any()


def test_embeddings_that_are_only_signs_are_ranked_by_hamming_distance_and_id(tmp_path: pathlib.Path) -> None:
    signs = (np.where(unit_vectors(900, 16) < 0, -1, 1) / 4).astype(np.float32)
    items = make_items(900)
    release_id = build_release(
        tmp_path / "root", items=items, embeddings=signs, parameters=IndexParameters("hamming", reorder=1)
    )
    release = open_release(open_store(tmp_path / "root"), release_id)
    assert not release.exact
    for query in signs[:5]:
        distances = (signs != query).sum(axis=1)
        # Its items are in the order of their ids.
        expected = np.argsort(distances, kind="stable")[:10]
        rows, scores = release.nearest(query, 10)
        assert ids(release, rows) == [items[row].item_id for row in expected]
        np.testing.assert_allclose(scores, 1 - 2 * distances[expected] / 16, atol=1e-6)
