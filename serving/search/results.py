"""What the core answers, without gRPC."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from serving.release.items import Item
from serving.search.query import Vector
from serving.search.view import Method


class Hit(NamedTuple):
    """A result. item: as the gateway renders it, without its thumbnail. score: exact cosine, in [-1, 1].

    collapsed, collapsed_ids: how many near-duplicates it stands for, and the ids of the best of them.
    """

    item: Any
    score: float
    collapsed: int = 0
    collapsed_ids: Sequence[str] = ()


class Timings(NamedTuple):
    """Seconds spent, by step; 0 for a step that the query didn't need."""

    decode: float = 0.0
    encode: float = 0.0
    search: float = 0.0


class SearchResult(NamedTuple):
    """An answer, best first, and the pair of encoder and index that gave it.

    items, scores, collapsed, collapsed_ids: see Hit, one for each; the latter two are empty where nothing was to be
    collapsed. matching: how many items match the filter, None without one. timings: None in a batch, which has its own.
    coverage: the share of the release's items that could be searched, in (0, 1].
    """

    items: Sequence[Any]
    scores: Sequence[float]
    collapsed: Sequence[int]
    collapsed_ids: Sequence[Sequence[str]]
    release_id: str
    encoder_version: int
    method: Method
    matching: int | None
    timings: Timings | None
    coverage: float = 1.0

    @property
    def neighbors(self) -> list[Hit]:
        """The results, one by one."""
        columns = (self.items, self.scores, self.collapsed, self.collapsed_ids)
        return [Hit(*values) for values in zip(*(column for column in columns if column), strict=True)]


@dataclasses.dataclass(frozen=True)
class BatchResult:
    """An outcome for each query: its result, or what a search of its own would have raised."""

    outcomes: list[SearchResult | Exception]
    release_id: str
    encoder_version: int
    timings: Timings


@dataclasses.dataclass(frozen=True)
class EncodeResult:
    """An image's embedding, float32 `[D]`, as the encoder gave it."""

    embedding: Vector
    release_id: str
    encoder_version: int


@dataclasses.dataclass(frozen=True)
class ItemsResult:
    """Items of the release that is named; None for an id that it doesn't have."""

    items: list[Item | None]
    release_id: str
