"""Measures an index against exact search on held-out queries, and refuses one that forgets too many neighbours."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
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
        # Of equals the first in the shards, so that it doesn't matter which were looked at first.
        order = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
        rows, scores = np.take_along_axis(all_rows, order, 1), np.take_along_axis(all_scores, order, 1)
        return Neighbors(np.where(np.isneginf(scores), -1, rows), scores)

    def together(self, other: "Neighbors") -> "Neighbors":
        """Returns the best of both, which are of the same queries and of different shards."""
        return self.merged(other.rows, other.scores, np.full(len(self.rows), -1))


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
    """What searching some shards gave. exact: the true neighbours among their items. found: k -> its Neighbors.

    seconds: of each single query `[Q]`, shard after shard. batch_seconds: of all queries in one batch.
    """

    exact: Neighbors
    found: dict[int, Neighbors]
    seconds: npt.NDArray[np.float64]
    batch_seconds: float

    def together(self, other: "Measured") -> "Measured":
        """Returns what searching the shards of both gave, in whatever order."""
        return Measured(
            self.exact.together(other.exact),
            {k: found.together(other.found[k]) for k, found in self.found.items()},
            self.seconds + other.seconds,
            self.batch_seconds + other.batch_seconds,
        )


def measure(queries: Queries, index: Index, shard: LoadedShard, vectors: Vectors, start: int) -> Measured:
    """Searches a shard as a gateway searches it, and by comparing everything.

    vectors: the shard's embeddings, float32 `[n, D]`. start: its first row, counted through all shards.
    """
    count = len(queries.rows)
    # One more, because a query finds itself.
    rows, scores = ExactIndex(vectors).search(queries.vectors, max(RECALL_AT) + 1)
    exact = Neighbors.none(count, max(RECALL_AT)).merged(rows + start, scores, queries.rows)
    found, seconds = {}, np.zeros(count)
    for k in RECALL_AT:
        nearest = Neighbors.none(count, k)
        for q, (own, vector) in enumerate(zip(queries.rows.tolist(), queries.vectors, strict=True)):
            began = time.perf_counter()
            rows, scores = shard.nearest(vector, k, own - start if start <= own < start + shard.count else None)
            if k == GATE_AT:
                seconds[q] = time.perf_counter() - began
            nearest.rows[q, : len(rows)], nearest.scores[q, : len(rows)] = rows + start, scores
        found[k] = nearest
    began = time.perf_counter()
    if shard.count:
        index.search(queries.vectors, GATE_AT + 1)
    return Measured(exact, found, seconds, time.perf_counter() - began)


class MeasureShard(beam.DoFn):
    """(number, first row) of a shard to its Measured. Memory is bounded by the shard."""

    def __init__(self, index_uri: str, index: dict[str, Any], queries: Queries) -> None:
        self._uri = index_uri
        self._index = index
        self._queries = queries

    def process(self, place: tuple[int, int]) -> Iterator[Measured]:
        number, start = place
        entry, store = self._index["shards"][number], open_store(self._uri)
        vectors = open_vectors(store, entry["embeddings"], entry["count"])
        parameters = IndexParameters.from_dict(self._index["parameters"])
        with fetched_folder(f"{store.uri}/{entry['index']}") as folder, fetched(store, entry["items"]) as path:
            searched = load_index(folder, vectors, parameters)
            with contextlib.closing(ItemShard(path)) as items:
                ranks = np.empty(items.count, np.int32)
                for rank, (row, _) in enumerate(items.by_id()):
                    ranks[row] = rank
                shard = LoadedShard(vectors, searched, items, ranks)
                yield measure(self._queries, searched, shard, vectors, start)


class MeasuredTogether(beam.CombineFn):
    """What was measured of all shards: so much of it is kept, however many they are."""

    def create_accumulator(self) -> Measured | None:
        return None

    def add_input(self, accumulator: Measured | None, element: Measured) -> Measured | None:
        return element if accumulator is None else accumulator.together(element)

    def merge_accumulators(self, accumulators: Iterable[Measured | None]) -> Measured | None:
        merged = None
        for each in accumulators:
            merged = merged if each is None else self.add_input(merged, each)
        return merged

    def extract_output(self, accumulator: Measured | None) -> Measured | None:
        return accumulator


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


def _item_ids(store: Store, index: dict[str, Any], rows: set[int]) -> dict[int, str]:
    """Returns the item ids of rows, counted through all shards."""
    names: dict[int, str] = {}
    start = 0
    for entry in index["shards"]:
        mine = sorted(row for row in rows if start <= row < start + entry["count"])
        if mine:
            with fetched(store, entry["items"]) as path, contextlib.closing(ItemShard(path)) as items:
                found = items.by_row([row - start for row in mine])
                names.update((row, item.item_id) for row, item in zip(mine, found, strict=True))
        start += entry["count"]
    return names


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked. held_out: how many items there were to choose from, 0 where any would do. seed: of the choice."""

    queries: Queries
    held_out: int
    seed: int


def choose(index: dict[str, Any], embeddings_uri: str, limit: int, seed: int) -> Asked:
    """Returns at most `limit` queries. Raises ValueError where the index is of other embeddings."""
    store = open_store(embeddings_uri)
    if index["encoder_digest"] != embedding_parts.read_encoder(store)["digest"]:
        raise ValueError("the index was built with another encoder than these embeddings.")
    report = embedding_parts.read_report(store)
    shards, parts = len(index["shards"]), len(report.counts)
    if [entry["count"] for entry in index["shards"]] != shard_counts(report.counts, shards):
        raise ValueError("the index was built from other embeddings than these.")
    held_out = [embedding_parts.read_held_out(store, part, parts) for part in range(parts)]
    chosen = choose_queries(held_out, limit, seed)
    starts = row_starts(report.counts, shards)
    rows = np.asarray([starts[part] + row for part, row in chosen], np.int64)
    return Asked(Queries(rows, _gather(store, report, chosen)), int(sum(int(mask.sum()) for mask in held_out)), seed)


class WriteEvaluation(beam.DoFn):
    """Writes evaluation.json, golden.json, the picture and the page of what was measured of all shards."""

    def __init__(self, index_uri: str, index: dict[str, Any], output_uri: str, asked: Asked, min_recall: float) -> None:
        self._uri = index_uri
        self._index = index
        self._output = output_uri
        self._asked = asked
        self._min_recall = min_recall

    def process(self, measured: Measured) -> None:
        index, asked, exact = self._index, self._asked.queries, measured.exact
        recalls = {k: recall_at(measured.found[k], exact, k, index["count"] - 1) for k in RECALL_AT}
        store = open_store(self._uri)
        named = {row for row in exact.rows[:_GOLDEN_QUERIES].ravel().tolist() if row >= 0}
        named |= set(asked.rows[:_GOLDEN_QUERIES].tolist())
        golden = golden_queries(asked, exact, _item_ids(store, index, named))
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
            "shards": len(index["shards"]),
            "queries": len(asked.rows),
            "held_out": self._asked.held_out,
            "seed": self._asked.seed,
            "top1_scores": None if top1_scores is None else top1_scores.to_dict(),
            "recall": {str(k): float(values.mean()) for k, values in recalls.items()},
            "gate": {
                "k": GATE_AT,
                "min_recall": self._min_recall,
                "recall": recall,
                "met": recall >= self._min_recall,
            },
            "golden_recall": golden_floor(recalls[GATE_AT][: len(golden)]),
            "latency_seconds": {"p50": p50, "p95": p95, "p99": p99},
            "queries_per_second": len(asked.rows) / measured.batch_seconds,
        }
        output = open_store(self._output)
        output.write(GOLDEN, (json.dumps([dataclasses.asdict(query) for query in golden], indent=1) + "\n").encode())
        with stored(output, PICTURE) as path:
            plot_evaluation(path, evaluation, recalls, measured.seconds)
        groups = store.read(GROUPS_PICTURE) if store.exists(GROUPS_PICTURE) else None
        output.write(REPORT, render_index_report(evaluation, output.read(PICTURE), groups).encode())
        output.write(EVALUATION, (json.dumps(evaluation, indent=1, sort_keys=True) + "\n").encode())


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


@component(use_beam=True)
def IndexEvaluator(
    index: InputArtifact[VectorIndex],
    embeddings: InputArtifact[Embeddings],
    evaluation: OutputArtifact[IndexEvaluation],
    queries: Parameter[int] = 1000,
    seed: Parameter[int] = 1,
    min_recall: Parameter[float] = 0.99,
    code: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
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
    described = read_index(index.uri)
    asked = choose(described, embeddings.uri, queries, seed)
    starts = np.cumsum([0, *(entry["count"] for entry in described["shards"])])[:-1].tolist()
    with beam_pipeline as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(enumerate(starts)))
            | "SpreadShards" >> beam.Reshuffle()
            | "MeasureShard" >> beam.ParDo(MeasureShard(index.uri, described, asked.queries))
            | "MeasuredTogether" >> beam.CombineGlobally(MeasuredTogether())
            | "WriteEvaluation" >> beam.ParDo(WriteEvaluation(index.uri, described, evaluation.uri, asked, min_recall))
        )
    measured = json.loads(open_store(evaluation.uri).read(EVALUATION))
    _log.info("recall %s, latency %s", measured["recall"], measured["latency_seconds"])
    check_recall(measured)
