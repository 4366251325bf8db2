"""Measures an index against exact search on held-out queries, and refuses one that forgets too many neighbours."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from components.artifact_files import fetched, fetched_folder, stored
from components.artifacts import Embeddings, IndexEvaluation, VectorIndex
from components.duplicates.steps import PICTURE as GROUPS_PICTURE
from components.embedding import parts as embedding_parts
from components.embedding.parts import EmbeddingsReport, open_vectors
from components.index_builder import read_index
from components.index_plot import plot_evaluation
from components.index_report import render_index_report
from components.index_shards import parts_of_shard, shard_counts
from components.reindex.unchanged import passed_on
from serving.index import ExactIndex, Index, IndexParameters, load_index
from serving.release.distribution import Distribution
from serving.release.items import ItemShard
from serving.release.manifest import GoldenQuery
from serving.release.shard import LoadedShard
from serving.release.verify import SCORE_TOLERANCE
from serving.storage import Store, open_store

_log = logging.getLogger(__name__)

EVALUATION = "evaluation.json"
GOLDEN = "golden.json"
PICTURE = "evaluation.png"
REPORT = "evaluation.html"
RECALL_AT = (1, 10, 100)
GATE_AT = 10
_GOLDEN_QUERIES = 100
# What recall on the golden queries may lose on another machine (instruction sets round differently) before a reader
# must take it for a fault.
_GOLDEN_MARGIN = 0.02

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class RecallTooLow(RuntimeError):
    """The index finds too few of the true neighbours to be served."""


@dataclasses.dataclass(frozen=True)
class Queries:
    """Q held-out items. rows: int64 `[Q]`, their rows in the index, counted through all shards. vectors: `[Q, D]`."""

    rows: Rows
    vectors: Vectors


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The best k of each query, itself left out. rows: int64 `[Q, k]` through all shards, -1 where there are no more.

    scores: float32 `[Q, k]`, exact cosines, descending; -inf where there are no more.
    """

    rows: Rows
    scores: Vectors

    @classmethod
    def none(cls, queries: int, k: int) -> "Neighbors":
        """Returns what is known before anything was searched."""
        return cls(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32))

    def merged(self, rows: Rows, scores: Vectors, own: Rows) -> "Neighbors":
        """Returns the best of these and of candidates `[Q, C]`, leaving out row `own[q]` of each query q."""
        scores = np.where(rows == own[:, None], -np.inf, scores).astype(np.float32)
        all_rows = np.concatenate([self.rows, rows], axis=1)
        all_scores = np.concatenate([self.scores, scores], axis=1)
        k = self.rows.shape[1]
        if all_scores.shape[1] > 4 * k:
            kept = np.argpartition(-all_scores, k - 1, axis=1)[:, :k]
            all_rows, all_scores = np.take_along_axis(all_rows, kept, 1), np.take_along_axis(all_scores, kept, 1)
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(all_rows, order, 1), np.take_along_axis(all_scores, order, 1)
        return Neighbors(np.where(np.isneginf(scores), -1, rows), scores)


def exact_neighbors(queries: Queries, shards: Iterable[Vectors], k: int) -> Neighbors:
    """Returns the true neighbours of `queries` among the embeddings of all `shards`, one after the other."""
    best = Neighbors.none(len(queries.rows), k)
    start = 0
    for vectors in shards:
        # One more, because a query finds itself.
        rows, scores = ExactIndex(vectors).search(queries.vectors, k + 1)
        best = best.merged(rows + start, scores, queries.rows)
        start += len(vectors)
    return best


def recall_at(found: Neighbors, exact: Neighbors, k: int, others: int) -> npt.NDArray[np.float64]:
    """Returns each query's recall in [0, 1] `[Q]`: how many of its k best neighbours were found.

    others: how many items there are beside the query; k is capped by it. Any item that is as near as the k-th true
    neighbour counts: among equals there is no right order.
    """
    k = min(k, others)
    if not k:
        return np.ones(len(exact.rows))
    kth = exact.scores[:, k - 1 : k]
    return np.asarray((found.scores[:, :k] >= kth - SCORE_TOLERANCE).sum(axis=1) / k, np.float64)


def choose_queries(held_out: Sequence[npt.NDArray[np.bool_]], limit: int, seed: int) -> list[tuple[int, int]]:
    """Returns at most `limit` held-out (part, row)s, chosen by `seed`, in random order; of all if none is."""
    marked = [(part, np.flatnonzero(mask)) for part, mask in enumerate(held_out)]
    if not any(len(rows) for _, rows in marked):
        marked = [(part, np.arange(len(mask))) for part, mask in enumerate(held_out)]
    parts = np.concatenate([np.full(len(rows), part) for part, rows in marked])
    rows = np.concatenate([rows for _, rows in marked])
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return [(int(parts[at]), int(rows[at])) for at in chosen]


def row_starts(counts: Sequence[int], shards: int) -> list[int]:
    """Returns where each part's rows begin among the rows of all index shards, one shard after the other."""
    starts = [0] * len(counts)
    at = 0
    for shard in range(shards):
        for part in parts_of_shard(shard, shards, len(counts)):
            starts[part] = at
            at += counts[part]
    return starts


@dataclasses.dataclass(frozen=True)
class Measured:
    """What searching all shards gave. found: k -> its Neighbors.

    seconds: of each single query `[Q]`, shard after shard. queries_per_second: of all queries in one batch.
    """

    found: dict[int, Neighbors]
    seconds: npt.NDArray[np.float64]
    queries_per_second: float


def measure(queries: Queries, shards: Iterable[tuple[Index, LoadedShard]], ks: Sequence[int]) -> Measured:
    """Searches one shard after the other, as a gateway searches it: memory is bounded by the largest."""
    count = len(queries.rows)
    found = {k: Neighbors.none(count, k) for k in ks}
    seconds = np.zeros(count)
    batch_seconds, start = 0.0, 0
    for index, shard in shards:
        for k in ks:
            nearest = Neighbors.none(count, k)
            for q, (own, vector) in enumerate(zip(queries.rows.tolist(), queries.vectors, strict=True)):
                began = time.perf_counter()
                rows, scores = shard.nearest(vector, k, own - start if start <= own < start + shard.count else None)
                if k == GATE_AT:
                    seconds[q] += time.perf_counter() - began
                nearest.rows[q, : len(rows)], nearest.scores[q, : len(rows)] = rows + start, scores
            found[k] = found[k].merged(nearest.rows, nearest.scores, queries.rows)
        if shard.count:
            began = time.perf_counter()
            index.search(queries.vectors, GATE_AT + 1)
            batch_seconds += time.perf_counter() - began
        start += shard.count
    return Measured(found, seconds, count / batch_seconds)


def golden_queries(queries: Queries, exact: Neighbors, names: dict[int, str]) -> list[GoldenQuery]:
    """Returns the first 100 queries with their true neighbours among the best 10; a lonely item has none."""
    golden = []
    for own, rows, scores in zip(queries.rows.tolist(), exact.rows.tolist(), exact.scores.tolist(), strict=True):
        best = [(-score, names[row]) for row, score in zip(rows, scores, strict=True) if row >= 0]
        golden.append(GoldenQuery(names[own], tuple(name for _, name in sorted(best[:GATE_AT]))))
        if len(golden) == _GOLDEN_QUERIES:
            break
    return golden


def golden_floor(recalls: npt.NDArray[np.float64]) -> float:
    """Returns the recall, in [0, 1], on the golden queries below which a reader must refuse this index."""
    return max(0.0, float(recalls.mean()) - _GOLDEN_MARGIN) if len(recalls) else 0.0


def _shard_vectors(store: Store, index: dict[str, Any]) -> Iterator[Vectors]:
    for entry in index["shards"]:
        yield open_vectors(store, entry["embeddings"], entry["count"])


def _open_shards(store: Store, index: dict[str, Any]) -> Iterator[tuple[Index, LoadedShard]]:
    parameters = IndexParameters.from_dict(index["parameters"])
    for entry, vectors in zip(index["shards"], _shard_vectors(store, index), strict=True):
        with fetched_folder(f"{store.uri}/{entry['index']}") as folder, fetched(store, entry["items"]) as path:
            searched = load_index(folder, vectors, parameters)
            with contextlib.closing(ItemShard(path)) as items:
                ranks = np.empty(items.count, np.int32)
                for rank, (row, _) in enumerate(items.by_id()):
                    ranks[row] = rank
                yield searched, LoadedShard(vectors, searched, items, ranks)


def _item_ids(store: Store, index: dict[str, Any], rows: set[int]) -> dict[int, str]:
    """Returns the item ids of rows, counted through all shards."""
    names: dict[int, str] = {}
    start = 0
    for entry in index["shards"]:
        mine = sorted(row for row in rows if start <= row < start + entry["count"])
        with fetched(store, entry["items"]) as path, contextlib.closing(ItemShard(path)) as items:
            found = items.by_row([row - start for row in mine])
            names.update((row, item.item_id) for row, item in zip(mine, found, strict=True))
        start += entry["count"]
    return names


def evaluate(
    index_uri: str, embeddings_uri: str, output_uri: str, *, queries: int, seed: int, min_recall: float
) -> dict[str, Any]:
    """Writes evaluation.json, golden.json, the picture and the page to `output_uri`; returns the evaluation."""
    index = read_index(index_uri)
    store = open_store(embeddings_uri)
    if index["encoder_digest"] != embedding_parts.read_encoder(store)["digest"]:
        raise ValueError("the index was built with another encoder than these embeddings.")
    report = embedding_parts.read_report(store)
    shards, parts = len(index["shards"]), len(report.counts)
    if [entry["count"] for entry in index["shards"]] != shard_counts(report.counts, shards):
        raise ValueError("the index was built from other embeddings than these.")
    held_out = [embedding_parts.read_held_out(store, part, parts) for part in range(parts)]
    chosen = choose_queries(held_out, queries, seed)
    starts = row_starts(report.counts, shards)
    asked = Queries(
        rows=np.asarray([starts[part] + row for part, row in chosen], np.int64), vectors=_gather(store, report, chosen)
    )
    index_store = open_store(index_uri)
    exact = exact_neighbors(asked, _shard_vectors(index_store, index), max(RECALL_AT))
    measured = measure(asked, _open_shards(index_store, index), RECALL_AT)
    others = index["count"] - 1
    recalls = {k: recall_at(measured.found[k], exact, k, others) for k in RECALL_AT}
    named = {row for row in exact.rows[:_GOLDEN_QUERIES].ravel().tolist() if row >= 0}
    named |= set(asked.rows[:_GOLDEN_QUERIES].tolist())
    golden = golden_queries(asked, exact, _item_ids(index_store, index, named))
    recall = float(recalls[GATE_AT].mean())
    # What a gateway compares the best scores of its queries with; none where there is but one item.
    top1_scores = Distribution.of(exact.scores[:, 0].tolist())
    p50, p95, p99 = np.percentile(measured.seconds, [50, 95, 99]).tolist()
    evaluation = {
        "kind": index["kind"],
        "parameters": index["parameters"],
        "tuning": index["tuning"],
        "duplicates": index["duplicates"],
        "count": index["count"],
        "dimension": index["dimension"],
        "shards": shards,
        "queries": len(chosen),
        "held_out": int(sum(int(mask.sum()) for mask in held_out)),
        "seed": seed,
        "top1_scores": None if top1_scores is None else top1_scores.to_dict(),
        "recall": {str(k): float(values.mean()) for k, values in recalls.items()},
        "gate": {"k": GATE_AT, "min_recall": min_recall, "recall": recall, "met": recall >= min_recall},
        "golden_recall": golden_floor(recalls[GATE_AT][: len(golden)]),
        "latency_seconds": {"p50": p50, "p95": p95, "p99": p99},
        "queries_per_second": measured.queries_per_second,
    }
    output = open_store(output_uri)
    output.write(EVALUATION, (json.dumps(evaluation, indent=1, sort_keys=True) + "\n").encode())
    output.write(GOLDEN, (json.dumps([dataclasses.asdict(query) for query in golden], indent=1) + "\n").encode())
    with stored(output, PICTURE) as path:
        plot_evaluation(path, evaluation, recalls, measured.seconds)
    groups = index_store.read(GROUPS_PICTURE) if index_store.exists(GROUPS_PICTURE) else None
    output.write(REPORT, render_index_report(evaluation, output.read(PICTURE), groups).encode())
    return evaluation


def _gather(store: Store, report: EmbeddingsReport, chosen: Sequence[tuple[int, int]]) -> Vectors:
    vectors = np.empty((len(chosen), report.dimension), np.float32)
    for part in {part for part, _ in chosen}:
        of_part = embedding_parts.read_vectors(store, report, part)
        for at, (other, row) in enumerate(chosen):
            if other == part:
                vectors[at] = of_part[row]
    return vectors


def check_recall(evaluation: dict[str, Any]) -> None:
    """Raises RecallTooLow where an evaluation's gate isn't met."""
    gate = evaluation["gate"]
    if not gate["met"]:
        raise RecallTooLow(
            f"recall@{gate['k']} must be at least {gate['min_recall']}, the {evaluation['kind']} index over"
            f" {evaluation['count']} items reached {gate['recall']:.4f} on {evaluation['queries']} queries."
            " Raise index.recall_target, search more leaves, re-rank more candidates, or use kind brute_force or exact."
        )


@component
def IndexEvaluator(
    index: InputArtifact[VectorIndex],
    embeddings: InputArtifact[Embeddings],
    evaluation: OutputArtifact[IndexEvaluation],
    queries: Parameter[int] = 1000,
    seed: Parameter[int] = 1,
    min_recall: Parameter[float] = 0.99,
    code: Parameter[str] = "",
) -> None:
    """Writes recall and speed of `index`, and the golden queries; fails the run below the recall that is asked for.

    queries: at most so many of the held-out items, chosen by `seed`. min_recall: of recall@10, in [0, 1].
    code: the fingerprint of our code.
    """
    if queries < 1:
        raise ValueError(f"queries must be at least 1, got {queries}.")
    if not 0 <= min_recall <= 1:
        raise ValueError(f"min_recall must be in [0, 1], got {min_recall}.")
    if passed_on(index.uri, evaluation.uri):
        return
    measured = evaluate(index.uri, embeddings.uri, evaluation.uri, queries=queries, seed=seed, min_recall=min_recall)
    _log.info("recall %s, latency %s", measured["recall"], measured["latency_seconds"])
    check_recall(measured)
