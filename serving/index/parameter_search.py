"""The parameters of an index, found on held-out queries: a target of recall at the least cost."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.index.choice import Choice
from serving.index.held_out import HeldOut
from serving.index.index import Embeddings, Rows
from serving.index.kinds import build_index
from serving.index.parameters import IndexParameters
from serving.index.point import NOISE, Point, choose, frontier
from serving.index.sweep import Seconds, sweep, thread_seconds

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """What a search tries. Its time is bounded by these, whatever the size of the collection.

    sample: at most so many embeddings are indexed. queries: at most so many are asked. leaves: ascending, times the
    root of the count; the search starts at the middle one and goes on in the direction that is faster.
    hash_dimensions: of asymmetric hashing. spill: whether to try SOAR.
    """

    sample: int = 100_000
    queries: int = 1000
    leaves: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    hash_dimensions: tuple[int, ...] = (1, 2)
    spill: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in (("sample", 100), ("queries", 10)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
        if not self.leaves or list(self.leaves) != sorted(self.leaves) or self.leaves[0] <= 0:
            raise ValueError(f"leaves must be ascending numbers above 0, got {self.leaves}.")
        if not all(type(value) is int and value >= 1 for value in self.hash_dimensions):
            raise ValueError(f"hash_dimensions must be whole numbers of at least 1, got {self.hash_dimensions}.")


def search_parameters(
    embeddings: Embeddings,
    queries: Embeddings,
    target: float,
    *,
    rows: Rows | None = None,
    fixed: Mapping[str, Any] | None = None,
    bytes_per_item: float | None = None,
    options: SearchOptions = SearchOptions(),
    seconds: Seconds = thread_seconds,
) -> Choice:
    """Returns how to build an index over `embeddings` for a recall@10 of `target` at the least time per query.

    Builds some indexes over a sample: first of several numbers of leaves, then, with the best, of other scorings, then
    with SOAR. Each is searched by ever more leaves and re-ranked candidates until it reaches the target.

    Args:
      embeddings: float32 `[N, D]`, of unit length; may be mapped from a file.
      queries: float32 `[Q, D]`; none of them is indexed.
      target: in (0, 1].
      rows: int64 `[Q]`, the rows of the queries among the embeddings, to be left out; None where they aren't there.
      fixed: fields of IndexParameters that are given. kind: `tree` (as if not given) or `hamming`.
      bytes_per_item: the most memory that an item may take, or None for any.
      seconds: measures how long some work takes.

    Raises:
      ValueError: where no index takes as little memory.
    """
    began = time.monotonic()
    sample = _take_sample(embeddings, rows, options)
    scale = (len(sample) / len(embeddings)) ** 0.5
    search = _Search(
        sample, HeldOut(sample, queries), target, _scaled_values(fixed or {}, scale), bytes_per_item, options, seconds
    )
    search.run()
    point = choose(search.points, target, bytes_per_item)
    values = {**scaled(point.parameters, 1 / scale).to_dict(), **(fixed or {})}
    values["leaves"] = max(values["leaves"], values["leaves_to_search"])
    return Choice(
        parameters=IndexParameters.from_dict(values),
        point=point,
        frontier=tuple(frontier(search.points, point)),
        target=target,
        count=len(embeddings),
        sampled=len(sample),
        queries=len(queries),
        seconds=time.monotonic() - began,
    )


def scaled(parameters: IndexParameters, by: float) -> IndexParameters:
    """Returns parameters with `by` times as many leaves, of which the same share is searched."""
    leaves = max(1, round(parameters.leaves * by))
    searched = min(leaves, max(1, round(parameters.leaves_to_search * by)))
    return dataclasses.replace(parameters, leaves=leaves, leaves_to_search=searched)


class _Search:
    def __init__(
        self,
        sample: Embeddings,
        held_out: HeldOut,
        target: float,
        fixed: Mapping[str, Any],
        bytes_per_item: float | None,
        options: SearchOptions,
        seconds: Seconds,
    ) -> None:
        self._sample = sample
        self._held_out = held_out
        self._target = target
        self._fixed = fixed
        self._limit = bytes_per_item
        self._options = options
        self._seconds = seconds
        self.points: list[Point] = []

    def run(self) -> None:
        if self._fixed.get("kind") == "hamming":
            self._try(self._parameters())
            return
        scorings = self._scorings()
        self._climb_leaves(scorings[0])
        leaves = choose(self.points, self._target).parameters.leaves
        for scoring in scorings[1:]:
            self._try(self._parameters(leaves=leaves, **scoring))
        best = choose(self.points, self._target).parameters
        if self._options.spill and "spill" not in self._fixed:
            spilt = self._parameters(**{**best.to_dict(), "leaves_to_search": 1, "spill": True})
            if self._fits(spilt):
                self._try(spilt)

    def _climb_leaves(self, scoring: dict[str, Any]) -> None:
        counts = [max(1, round(len(self._sample) ** 0.5 * factor)) for factor in self._options.leaves]
        if "leaves" in self._fixed:
            counts = [self._fixed["leaves"]]
        middle = len(counts) // 2
        start = best = self._try(self._parameters(leaves=counts[middle], **scoring))
        for towards in (counts[middle + 1 :], counts[:middle][::-1]):
            for leaves in towards:
                speed = self._try(self._parameters(leaves=leaves, **scoring))
                if speed <= (1 + NOISE) * best:
                    break
                best = speed
            if best > start:
                break  # more leaves are faster, so fewer aren't

    def _try(self, parameters: IndexParameters) -> float:
        """Builds and searches; returns the queries per second at the target, 0 where it isn't reached."""
        began = time.monotonic()
        index = build_index(self._sample, parameters)
        built = time.monotonic() - began
        points = sweep(
            index,
            parameters,
            self._held_out,
            self._target,
            fixed=self._fixed,
            build_seconds=built,
            seconds=self._seconds,
        )
        self.points += points
        speed = max((point.queries_per_second for point in points if point.recall >= self._target), default=0.0)
        _log.info("%d queries per second at recall %.4f by %s", speed, self._target, parameters)
        return speed

    def _scorings(self) -> list[dict[str, Any]]:
        """Returns the ways to score within a leaf that memory suffices for, the simplest first."""
        ways: list[dict[str, Any]] = [{"scoring": "exact"}]
        reranks = ("memory",) if self._limit is None else ("memory", "file")
        for rerank in reranks:
            ways += [
                {"scoring": "hash", "hash_dimensions": dimensions, "rerank": rerank}
                for dimensions in self._options.hash_dimensions
            ]
        given = [way for way in ways if all(way.get(n, v) == v for n, v in self._fixed.items())]
        given = given or [{}]
        fitting = [way for way in given if self._fits(self._parameters(**way))]
        if not fitting:
            least = min(self._parameters(**way).bytes_per_item(self._sample.shape[1]) for way in given)
            raise ValueError(f"an index takes at least {least:g} bytes per item, {self._limit:g} are allowed.")
        return fitting

    def _fits(self, parameters: IndexParameters) -> bool:
        return self._limit is None or parameters.bytes_per_item(self._sample.shape[1]) <= self._limit

    def _parameters(self, **values: Any) -> IndexParameters:
        stated = {"kind": "tree", **values, **self._fixed}
        searched = stated.get("leaves_to_search", 1)
        return IndexParameters.from_dict({**stated, "leaves": max(stated.get("leaves", 1), searched)})


def _take_sample(embeddings: Embeddings, rows: Rows | None, options: SearchOptions) -> Embeddings:
    others = np.arange(len(embeddings))
    if rows is not None:
        others = np.delete(others, rows)
    if len(others) > options.sample:
        others = np.sort(np.random.default_rng(options.seed).choice(others, options.sample, replace=False))
    elif rows is None:
        return embeddings
    return np.ascontiguousarray(embeddings[others])


def _scaled_values(fixed: Mapping[str, Any], scale: float) -> dict[str, Any]:
    values = dict(fixed)
    for name in ("leaves", "leaves_to_search"):
        if name in values:
            values[name] = max(1, round(values[name] * scale))
    return values
