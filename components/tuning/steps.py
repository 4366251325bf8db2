"""The two steps that find an index's parameters, each in a worker, with one shard in memory."""

import dataclasses
import logging
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np

from components.artifact_files import fetched_folder
from components.embedding.parts import open_vectors
from components.index_shards import held_out_rows, read_shard_vectors
from components.tuning.options import TuningOptions
from components.tuning.plan import Plan
from serving.index import Choice, HeldOut, IndexParameters, calibrate, load_index, search_parameters
from serving.storage import open_store

_log = logging.getLogger(__name__)

# What recall may lose from one release to the next before it is searched harder. The gate lies further below.
_DRIFT = 0.0025


@dataclasses.dataclass(frozen=True)
class TuningTask:
    """Where it is tuned: on shard `shard` of `shards`, of the artifacts `embeddings` and (once built) `output`."""

    embeddings: str
    output: str
    shard: int
    shards: int
    count: int
    options: TuningOptions
    plan: Plan


class FindParameters(beam.DoFn):
    """Yields {parameters, choice}: how to build every shard, and what else there was; `choice` only of a search."""

    def __init__(self, task: TuningTask) -> None:
        self._task = task

    def process(self, _: Any) -> Iterator[dict[str, Any]]:
        task = self._task
        if task.plan.method != "search":
            yield {"parameters": task.plan.parameters.to_dict()}
            return
        store = open_store(task.embeddings)
        search = task.options.search
        rows = held_out_rows(store, task.shard, task.shards, search.queries, search.seed)
        vectors = read_shard_vectors(store, task.shard, task.shards)
        choice = search_parameters(
            vectors,
            vectors[rows],
            task.options.target,
            rows=rows,
            fixed=task.plan.fixed,
            bytes_per_item=task.options.limit,
            options=search,
        )
        _log.info("found in %.1f s: %s", choice.seconds, choice.parameters)
        yield {"parameters": choice.parameters.to_dict(), "choice": choice.to_dict()}


class Calibrate(beam.DoFn):
    """Yields {parameters, tuning}: how to search every shard, measured on the one that was built, and how it was found.

    What a reindex takes from its base is only looked at, and changed where recall has fallen.
    """

    def __init__(self, task: TuningTask) -> None:
        self._task = task

    def process(self, entries: list[dict[str, Any]], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
        task = self._task
        parameters = IndexParameters.from_dict(found["parameters"])
        tuning: dict[str, Any] = {"method": task.plan.method}
        if task.plan.method != "rule":
            entry = next(entry for entry in entries if entry["shard"] == task.shard)
            kept = task.plan.base or {}
            choice = self._calibrate(entry, parameters, kept)
            parameters = parameters if choice is None else choice.parameters
            tuning |= {
                "options": task.options.to_dict(),
                "fixed": task.plan.fixed,
                # Of a base, those of the release that was searched: it may not grow little by little for ever.
                "largest": kept.get("largest", task.count),
                "search": kept.get("search") or found.get("choice"),
                "calibration": kept["calibration"] if choice is None else choice.to_dict(),
            }
        yield {"parameters": parameters.to_dict(), "tuning": tuning}

    def _calibrate(self, entry: dict[str, Any], parameters: IndexParameters, kept: dict[str, Any]) -> Choice | None:
        task, search = self._task, self._task.options.search
        began = time.monotonic()
        output = open_store(task.output)
        vectors = open_vectors(output, entry["embeddings"], entry["count"])
        rows = held_out_rows(open_store(task.embeddings), task.shard, task.shards, search.queries, search.seed)
        queries = np.asarray(vectors[rows])
        with fetched_folder(f"{task.output}/{entry['index']}") as folder:
            index = load_index(folder, vectors, parameters)
        if kept:
            recall = HeldOut(vectors, queries, rows).recall(index)
            _log.info("recall@10 of the base's parameters: %.4f", recall)
            if recall >= task.options.target - _DRIFT:
                return None
        choice = calibrate(
            index,
            vectors,
            queries,
            parameters,
            task.options.target,
            rows=rows,
            fixed=task.plan.fixed,
            build_seconds=entry["build_seconds"],
        )
        _log.info("calibrated in %.1f s: recall@10 %.4f", time.monotonic() - began, choice.point.recall)
        return choice
