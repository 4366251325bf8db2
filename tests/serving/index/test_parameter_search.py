"""The whole search, on real indexes, by recall alone: what takes longer is for benchmarks."""

import numpy as np
import pytest

from serving.index import Choice, ExactIndex, SearchOptions, build_for, calibrate, search_parameters
from serving.index.kinds import build_index
from tests.serving.release_builder import unit_vectors

COUNT, DIMENSION = 3000, 16


def seconds(work) -> float:
    return 1.0


def recall(index, embeddings, queries) -> float:
    found, exact = index.search(queries, 10)[0], ExactIndex(embeddings).search(queries, 10)[0]
    return float(np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(found, exact, strict=True)]))


@pytest.fixture(scope="module")
def collection():
    return unit_vectors(COUNT, DIMENSION), unit_vectors(60, DIMENSION, seed=1)


@pytest.mark.parametrize("target", [0.8, 0.99])
def test_an_index_reaches_its_target(collection, target: float) -> None:
    embeddings, queries = collection
    index, choice = build_for(embeddings, queries, target)
    assert recall(index, embeddings, queries) >= target - 1e-6
    assert choice.met and choice.point.recall >= target and choice.parameters == choice.point.parameters
    assert Choice.from_dict(choice.to_dict()) == choice


def test_a_sample_stands_for_the_whole(collection) -> None:
    embeddings, queries = collection
    options = SearchOptions(sample=750, leaves=(1.0,), hash_dimensions=(), spill=False)
    choice = search_parameters(embeddings, queries, 0.9, options=options, seconds=seconds)
    assert (choice.count, choice.sampled, choice.queries) == (3000, 750, 60)
    # A quarter of the items in half of the leaves.
    assert (choice.point.parameters.leaves, choice.parameters.leaves) == (27, 54)
    index = build_index(embeddings, choice.parameters)
    found = calibrate(index, embeddings, queries, choice.parameters, 0.9, seconds=seconds)
    assert found.parameters.leaves == 54 and found.met
    assert recall(index.tuned(found.parameters), embeddings, queries) >= 0.9 - 1e-6


def test_every_scoring_is_tried(collection, caplog) -> None:
    embeddings, queries = collection
    caplog.set_level("INFO", "serving.index.parameter_search")
    choice = search_parameters(embeddings, queries, 0.9, options=SearchOptions(leaves=(0.5, 1.0, 2.0)), seconds=seconds)
    tried = [record.args[2] for record in caplog.records]
    # Of leaves the middle, and one on either side, since neither is faster; then each scoring with the best of them.
    assert [(p.leaves, p.scoring) for p in tried[:3]] == [(55, "exact"), (110, "exact"), (27, "exact")]
    leaves = choice.parameters.leaves
    assert [(p.leaves, p.hash_dimensions) for p in tried[3:5]] == [(leaves, 1), (leaves, 2)]
    assert [p.spill for p in tried] == [False] * 5 + [True]
    # All cost the same here, so the simplest is taken.
    assert (choice.parameters.scoring, choice.parameters.spill) == ("exact", False)


def test_memory_decides_where_it_is_short(collection) -> None:
    embeddings, queries = collection
    choice = search_parameters(embeddings, queries, 0.9, bytes_per_item=20, seconds=seconds)
    assert (choice.parameters.scoring, choice.parameters.rerank) == ("hash", "file")
    assert choice.met and choice.point.bytes_per_item <= 20
    with pytest.raises(ValueError, match="at least 12 bytes per item, 10 are allowed"):
        search_parameters(embeddings, queries, 0.9, bytes_per_item=10, seconds=seconds)


def test_what_is_given_is_not_searched_for(collection) -> None:
    embeddings, queries = collection
    fixed = {"kind": "tree", "leaves": 30, "scoring": "hash", "reorder": 300}
    choice = search_parameters(embeddings, queries, 0.8, fixed=fixed, seconds=seconds)
    assert {name: choice.parameters.to_dict()[name] for name in fixed} == fixed
    assert choice.met
    choice = search_parameters(embeddings, queries, 0.9, fixed={"kind": "hamming"}, seconds=seconds)
    assert choice.parameters.kind == "hamming" and choice.met and choice.parameters.reorder < COUNT


def test_queries_among_the_embeddings_are_not_indexed(collection) -> None:
    embeddings, _ = collection
    rows = np.arange(0, COUNT, 50)
    options = SearchOptions(leaves=(1.0,), hash_dimensions=(), spill=False)
    choice = search_parameters(embeddings, embeddings[rows], 0.9, rows=rows, options=options, seconds=seconds)
    assert (choice.count, choice.sampled) == (COUNT, COUNT - len(rows))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample": 99}, "sample must be a whole number of at least 100, got 99"),
        ({"leaves": (2.0, 1.0)}, "leaves must be ascending"),
        ({"leaves": ()}, "leaves must be ascending"),
        ({"hash_dimensions": (0,)}, "hash_dimensions must be whole numbers of at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(wrong, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchOptions(**wrong)
