"""How hard an index is searched until it finds enough: the way there by made-up figures, the recall by real ones."""

import dataclasses

import numpy as np
import pytest

from serving.index import ExactIndex, HeldOut, IndexParameters, Point, build_index, sweep
from serving.index.sweep import climb
from tests.serving.index.every_kind import NARROW
from tests.serving.release_builder import unit_vectors

TREE = IndexParameters("tree", leaves=400)


def measured(recall_of):
    """Measures by a function of the leaves that are searched; remembers which were asked."""
    asked = []

    def measure(parameters: IndexParameters) -> Point:
        asked.append(parameters.leaves_to_search)
        return Point(parameters, recall_of(parameters.leaves_to_search), 1000 / parameters.leaves_to_search, 1.0, 1.0)

    return measure, asked


@pytest.mark.parametrize("needed", [1, 2, 7, 30, 117, 400])
def test_the_fewest_leaves_that_suffice_are_found(needed: int) -> None:
    measure, asked = measured(lambda leaves: 0.95 if leaves >= needed else 0.5)
    points = climb(measure, TREE, "leaves_to_search", 400, 0.95)
    found = min(point.parameters.leaves_to_search for point in points if point.recall >= 0.95)
    assert needed <= found <= needed * 1.04
    assert len(asked) == len(points) < 30
    # And the curve goes on a little, where there is more.
    assert needed > 380 or max(asked) > found


def test_exact_scoring_is_pursued_to_the_last_leaf() -> None:
    measure, asked = measured(lambda leaves: 1.0 if leaves == 400 else 0.1)
    assert max(point.recall for point in climb(measure, TREE, "leaves_to_search", 400, 0.99)) == 1.0
    assert max(asked) == 400


def test_hashing_is_given_up_where_it_gets_no_further() -> None:
    hashed = dataclasses.replace(TREE, scoring="hash")
    measure, asked = measured(lambda leaves: 0.9 - 0.4 / leaves**2)
    climb(measure, hashed, "leaves_to_search", 400, 0.99)
    assert max(asked) < 400
    measure, asked = measured(lambda leaves: 1.0 - 0.5 / leaves)
    assert max(point.recall for point in climb(measure, hashed, "leaves_to_search", 400, 0.99)) >= 0.99


@pytest.mark.parametrize("name", NARROW)
def test_every_kind_is_searched_until_it_finds_enough(name: str) -> None:
    embeddings, queries = unit_vectors(2000, 16), unit_vectors(50, 16, seed=1)
    index = build_index(embeddings, NARROW[name])
    # Work that costs nothing costs the same everywhere: only recall decides.
    points = sweep(index, NARROW[name], HeldOut(embeddings, queries), 0.9, seconds=lambda work: 1.0)
    best = max(points, key=lambda point: point.recall)
    assert best.recall >= 0.9
    assert HeldOut(embeddings, queries).recall(index.tuned(best.parameters)) == best.recall
    assert best.bytes_per_item == NARROW[name].bytes_per_item(16)


def test_what_is_fixed_stays() -> None:
    embeddings, queries = unit_vectors(500, 16), unit_vectors(20, 16, seed=1)
    hashed = NARROW["tree that hashes"]
    index = build_index(embeddings, hashed)
    held_out = HeldOut(embeddings, queries)
    points = sweep(index, hashed, held_out, 0.9, fixed=("reorder",), seconds=lambda work: 1.0)
    assert {point.parameters.reorder for point in points} == {20} and len(points) > 1
    points = sweep(index, hashed, held_out, 0.9, fixed=("reorder", "leaves_to_search"), seconds=lambda work: 1.0)
    assert [point.parameters for point in points] == [hashed]


def test_recall_leaves_out_the_query_and_takes_equals_for_equal() -> None:
    embeddings = np.repeat(unit_vectors(5, 16), 30, axis=0)
    index = build_index(embeddings, IndexParameters("brute_force"))
    rows = np.arange(0, 150, 15)
    assert HeldOut(embeddings, embeddings[rows], rows).recall(index) == 1.0
    other = build_index(unit_vectors(150, 16, seed=1), IndexParameters("brute_force"))
    assert HeldOut(embeddings, embeddings[rows], rows).recall(other) < 0.5
    alone = embeddings[:1]
    assert HeldOut(alone, alone, np.zeros(1, np.int64)).recall(build_index(alone, IndexParameters("exact"))) == 1.0
    with pytest.raises(ValueError, match="at least one query"):
        HeldOut(embeddings, embeddings[:0])


def test_an_item_is_not_its_own_neighbour() -> None:
    embeddings = unit_vectors(1000, 16)
    rows = np.arange(0, 1000, 20)
    index = build_index(embeddings, NARROW["tree"])
    found = index.search(embeddings[rows], 11)[0]
    exact = ExactIndex(embeddings).search(embeddings[rows], 11)[0]
    assert (exact[:, 0] == rows).all()
    others = [set(line) - {row} for line, row in zip(found.tolist(), rows.tolist(), strict=True)]
    recalls = [len(near & set(line[1:])) / 10 for near, line in zip(others, exact.tolist(), strict=True)]
    assert HeldOut(embeddings, embeddings[rows], rows).recall(index) == pytest.approx(np.mean(recalls))
