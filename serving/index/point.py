"""Measured ways to build and search an index, and the choice among them."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from serving.index.parameters import IndexParameters

# Speeds closer than this, as a share of the fastest, are taken for the same.
NOISE = 0.05


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to build and search an index, and what it gave.

    recall: at 10, of held-out queries, in [0, 1]. queries_per_second: of one thread. bytes_per_item: of memory.
    build_seconds: of the index that was searched.
    """

    parameters: IndexParameters
    recall: float
    queries_per_second: float
    bytes_per_item: float
    build_seconds: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.recall <= 1.0:
            raise ValueError(f"recall must be in [0, 1], got {self.recall}.")
        for name in ("queries_per_second", "bytes_per_item", "build_seconds"):
            value = getattr(self, name)
            if not (value >= 0.0 and math.isfinite(value)):
                raise ValueError(f"{name} must be finite and at least 0, got {value}.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the point as a JSON value."""
        return {**dataclasses.asdict(self), "parameters": self.parameters.to_dict()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Point":
        """Returns the point that `to_dict` wrote."""
        return cls(**{**value, "parameters": IndexParameters.from_dict(value["parameters"])})


def choose(points: Sequence[Point], target: float, bytes_per_item: float | None = None) -> Point:
    """Returns the fastest point with a recall of at least `target`; among those as fast within NOISE the simplest.

    Where none reaches it, the one of the highest recall. bytes_per_item: the most memory an item may take, or None.
    Raises ValueError where every point takes more.
    """
    allowed = [point for point in points if bytes_per_item is None or point.bytes_per_item <= bytes_per_item]
    if not allowed:
        least = min((point.bytes_per_item for point in points), default=math.inf)
        raise ValueError(f"an index takes at least {least:g} bytes per item, {bytes_per_item} are allowed.")
    enough = [point for point in allowed if point.recall >= target]
    if not enough:
        return max(allowed, key=lambda point: (point.recall, point.queries_per_second))
    fastest = max(point.queries_per_second for point in enough)
    ties = [point for point in enough if point.queries_per_second >= (1 - NOISE) * fastest]
    return min(ties, key=_complexity)


def frontier(points: Iterable[Point], chosen: Point | None = None) -> list[Point]:
    """Returns the points that no other beats in recall, speed and memory at once; by recall, ascending.

    chosen: is among them in any case.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.recall, -point.queries_per_second, point.bytes_per_item)):
        beaten = any(
            other.queries_per_second >= point.queries_per_second and other.bytes_per_item <= point.bytes_per_item
            for other in best
        )
        if not beaten:
            best.append(point)
    kept = best if chosen is None or chosen in best else [*best, chosen]
    return sorted(kept, key=lambda point: point.recall)


def _complexity(point: Point) -> tuple[Any, ...]:
    parameters = point.parameters
    how = (parameters.scoring != "exact", parameters.spill, parameters.rerank != "memory")
    size = (point.bytes_per_item, parameters.leaves, parameters.leaves_to_search, parameters.reorder)
    return (*how, *size, -point.recall)
