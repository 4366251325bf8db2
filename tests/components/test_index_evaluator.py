import json
import pathlib

import apache_beam as beam
import numpy as np
import pytest
from PIL import Image

from components.artifacts import IndexEvaluation, VectorIndex
from components.index_builder import IndexBuilder
from components.index_evaluator import (
    IndexEvaluator,
    Measured,
    MeasuredTogether,
    Neighbors,
    Queries,
    RecallTooLow,
    choose_queries,
    golden_floor,
    recall_at,
    row_starts,
)
from pipeline.beam_options import DIRECT_RUNNER
from serving.index import ExactIndex
from serving.release.distribution import Distribution
from tests.components.tiny import make_embeddings


def evaluate(folder: pathlib.Path, embeddings, *, shards=1, index_parameters=None, **parameters):
    """Builds an index and runs IndexEvaluator on it; returns the IndexEvaluation artifact."""
    index, evaluation = VectorIndex(), IndexEvaluation()
    index.uri, evaluation.uri = str(folder / "index"), str(folder / "evaluation")
    IndexBuilder.test_call(
        embeddings=embeddings,
        index=index,
        shards=shards,
        parameters=json.dumps(index_parameters or {}),
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
    )
    IndexEvaluator.test_call(
        index=index,
        embeddings=embeddings,
        evaluation=evaluation,
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
        **{"queries": 1000, "seed": 1, "min_recall": 0.99, **parameters},
    )
    return evaluation


def read(folder: pathlib.Path, name: str):
    return json.loads((folder / "evaluation" / name).read_text())


def exact_neighbors(queries, shards, k, order=None):
    """Returns the true neighbours among all shards, whose results are put together in any order."""
    starts = np.cumsum([0, *map(len, shards)]).tolist()
    found = []
    for start, vectors in zip(starts, shards, strict=False):
        rows, scores = ExactIndex(vectors).search(queries.vectors, k + 1)
        found.append(Neighbors.none(len(queries.rows), k).merged(rows + start, scores, queries.rows))
    combine = MeasuredTogether()
    accumulators = [
        combine.add_input(combine.create_accumulator(), Measured(found[shard], {}, np.zeros(len(queries.rows)), 0.0))
        for shard in order or range(len(shards))
    ]
    merged = combine.merge_accumulators([combine.create_accumulator(), *accumulators])
    return combine.extract_output(merged).exact


# A query that finds itself first would have one true neighbour less.
def test_neighbors_leave_out_the_query_itself():
    vectors = np.eye(4, dtype=np.float32)
    vectors[1, 0] = 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = exact_neighbors(Queries(np.asarray([0]), vectors[:1]), [vectors[:2], vectors[2:]], 2)
    assert found.rows[0, 0] == 1
    assert found.scores[0].tolist() == pytest.approx([0.5**0.5, 0])


def test_exact_neighbors_through_shards_are_those_of_one_matrix_product():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(300, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    own = np.asarray([0, 7, 299])
    found = exact_neighbors(Queries(own, vectors[own]), [vectors[:100], vectors[100:100], vectors[100:]], 20)
    scores = vectors[own] @ vectors.T
    scores[np.arange(3), own] = -np.inf
    assert found.rows.tolist() == np.argsort(-scores, axis=1)[:, :20].tolist()


def test_it_does_not_matter_which_shard_was_first():
    # Equals lie in all shards, more of them than are wanted.
    rng = np.random.default_rng(4)
    vectors = np.repeat(rng.normal(size=(20, 6)), 5, axis=0)[rng.permutation(100)].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = Queries(np.asarray([3, 55, 99]), vectors[[3, 55, 99]])
    shards = np.split(vectors, [10, 40, 40, 90])
    one = exact_neighbors(queries, [vectors], 12)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]):
        found = exact_neighbors(queries, shards, 12, order)
        assert found.rows.tolist() == one.rows.tolist() and found.scores.tolist() == one.scores.tolist()


def test_where_there_are_fewer_than_k_the_rest_is_marked():
    vectors = np.eye(2, dtype=np.float32)
    found = exact_neighbors(Queries(np.asarray([0]), vectors[:1]), [vectors], 3)
    assert found.rows.tolist() == [[1, -1, -1]]


def neighbors(*scores):
    return Neighbors(np.zeros((1, len(scores)), np.int64), np.asarray([scores], np.float32))


@pytest.mark.parametrize(
    ("found", "exact", "k", "others", "recall"),
    [
        ([0.9, 0.8], [0.9, 0.8], 2, 9, 1.0),
        ([0.9, 0.7], [0.9, 0.8], 2, 9, 0.5),
        ([0.5, 0.4], [0.9, 0.8], 2, 9, 0.0),
        ([0.9, 0.9], [0.9, 0.9], 2, 9, 1.0),  # equals: it does not matter which
        ([0.9, -np.inf], [0.9, -np.inf], 2, 1, 1.0),  # only one other item
        ([-np.inf, -np.inf], [-np.inf, -np.inf], 2, 0, 1.0),  # none
    ],
)
def test_recall_counts_what_is_as_near_as_the_kth(found, exact, k, others, recall):
    assert recall_at(neighbors(*found), neighbors(*exact), k, others).tolist() == [recall]


def test_queries_are_held_out_distinct_and_seeded():
    held_out = [np.asarray([True, False, True]), np.zeros(0, bool), np.asarray([False, True])]
    everything = {(0, 0), (0, 2), (2, 1)}
    assert set(choose_queries(held_out, 1000, 1)) == everything
    assert len(choose_queries(held_out, 2, 1)) == 2
    assert choose_queries(held_out, 2, 1) == choose_queries(held_out, 2, 1)
    orders = {tuple(choose_queries(held_out, 3, seed)) for seed in range(20)}
    assert len(orders) > 1


def test_where_nothing_is_held_out_any_item_is_a_query():
    assert sorted(choose_queries([np.zeros(2, bool), np.zeros(1, bool)], 1000, 1)) == [(0, 0), (0, 1), (1, 0)]


def test_rows_are_counted_shard_after_shard():
    # Shard 0 holds parts 0 and 2, shard 1 parts 1 and 3.
    assert row_starts([1, 2, 3, 4], 2) == [0, 4, 1, 6]


def test_the_golden_floor_is_a_little_below_what_was_measured():
    assert golden_floor(np.ones(5)) == pytest.approx(0.98)
    assert golden_floor(np.zeros(5)) == 0
    assert golden_floor(np.ones(0)) == 0


@pytest.mark.parametrize("shards", [1, 2])
def test_brute_force_finds_everything(tmp_path, shards):
    embeddings, vectors = make_embeddings(tmp_path / "in", 300, parts=2)
    evaluate(tmp_path, embeddings, shards=shards)
    evaluation = read(tmp_path, "evaluation.json")
    assert evaluation["recall"] == {"1": 1.0, "10": 1.0, "100": 1.0}
    assert evaluation["gate"]["met"]
    assert evaluation["queries"] == evaluation["held_out"] == 75
    latency = evaluation["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert evaluation["queries_per_second"] > 0
    golden = read(tmp_path, "golden.json")
    assert len(golden) == 75
    top1_scores = Distribution.from_dict(evaluation["top1_scores"])
    best = []
    for query in golden:
        own = vectors[query["item_id"]]
        others = sorted((-float(own @ vector), name) for name, vector in vectors.items() if name != query["item_id"])
        assert query["neighbors"] == [name for _, name in others[:10]]
        best.append(-others[0][0])
    assert top1_scores.count == 75
    assert top1_scores.percentiles == pytest.approx(np.quantile(best, np.linspace(0, 1, 101), method="inverted_cdf"))
    with Image.open(tmp_path / "evaluation" / "evaluation.png") as picture:
        assert picture.width > 500


@pytest.mark.slow
def test_there_are_at_most_a_hundred_golden_queries_and_as_many_as_asked(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 300, held_out=lambda n: True)
    evaluate(tmp_path, embeddings, queries=120)
    assert len(read(tmp_path, "golden.json")) == 100
    assert read(tmp_path, "evaluation.json")["queries"] == 120


TREE = {"kind": "tree", "leaves": 40, "leaves_to_search": 1}


def test_a_tree_that_searches_too_few_leaves_fails_and_says_why(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 1000)
    with pytest.raises(
        RecallTooLow, match=r"recall@10 must be at least 0.99, the tree index over 1000 items reached 0\."
    ):
        evaluate(tmp_path, embeddings, index_parameters=TREE)
    evaluation = read(tmp_path, "evaluation.json")
    assert not evaluation["gate"]["met"]
    assert evaluation["recall"]["10"] < 0.9
    assert (tmp_path / "evaluation" / "evaluation.png").exists()


@pytest.mark.slow
def test_a_tree_that_searches_all_leaves_passes(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 1000)
    evaluate(tmp_path, embeddings, index_parameters={**TREE, "leaves_to_search": 40})
    assert read(tmp_path, "evaluation.json")["recall"]["10"] == 1.0


@pytest.mark.slow
def test_the_gate_may_be_lowered(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 1000)
    evaluate(tmp_path, embeddings, index_parameters=TREE, min_recall=0.05)
    evaluation = read(tmp_path, "evaluation.json")
    assert 0 < evaluation["golden_recall"] < evaluation["recall"]["10"] + 0.2 < 1


def test_one_item_has_no_neighbours_and_nothing_to_forget(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 1)
    evaluate(tmp_path, embeddings)
    assert read(tmp_path, "evaluation.json")["recall"] == {"1": 1.0, "10": 1.0, "100": 1.0}
    assert read(tmp_path, "golden.json") == [{"item_id": "0.png", "neighbors": []}]


def test_items_that_are_all_the_same_have_no_right_order(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 50, vectors=np.ones((50, 8)))
    evaluate(tmp_path, embeddings)
    assert read(tmp_path, "evaluation.json")["recall"]["10"] == 1.0


def test_an_index_of_other_embeddings_is_not_measured(tmp_path):
    embeddings, _ = make_embeddings(tmp_path / "in", 20)
    evaluate(tmp_path, embeddings)
    index, evaluation = VectorIndex(), IndexEvaluation()
    index.uri, evaluation.uri = str(tmp_path / "index"), str(tmp_path / "other")
    arguments = {
        "index": index,
        "evaluation": evaluation,
        "queries": 10,
        "seed": 1,
        "min_recall": 0.9,
        "beam_pipeline": None,
    }
    other, _ = make_embeddings(tmp_path / "fewer", 19)
    with pytest.raises(ValueError, match="other embeddings"):
        IndexEvaluator.test_call(embeddings=other, **arguments)
    (tmp_path / "in" / "encoder.json").write_text(json.dumps({"digest": "e" * 64, "info": {}}))
    with pytest.raises(ValueError, match="another encoder"):
        IndexEvaluator.test_call(embeddings=embeddings, **arguments)


@pytest.mark.parametrize(("name", "value"), [("queries", 0), ("min_recall", 1.1), ("min_recall", -0.1)])
def test_parameters_have_limits(tmp_path, name, value):
    embeddings, _ = make_embeddings(tmp_path / "in", 2)
    with pytest.raises(ValueError, match=f"{name} must be"):
        evaluate(tmp_path, embeddings, **{name: value})
