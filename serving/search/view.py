"""What a query is answered from: a release, or a release and what was changed beside it. It never changes."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from serving.index import Embeddings, Rows
from serving.release.items import Item
from serving.search.collapse import Content, Owners, collapse, collapse_groups
from serving.search.filters import Filter

# How many results may be looked at for k that are distinct.
MOST_EXAMINED = 16_384
MOST_NAMED = 16  # collapsed results that are named
T = TypeVar("T")


class Method(enum.Enum):
    """How an answer was found; the value is for people."""

    EXACT = "exact"
    INDEX = "index"
    EXACT_FILTERED = "exact, filtered"
    INDEX_FILTERED = "index, filtered"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """k: at least 1. min_score: what scores lower is left out. collapse_score: see `collapse`. collapse_groups: whether
    to collapse by the groups that the build found. Validated by Query."""

    k: int
    min_score: float | None = None
    filter: Filter | None = None
    collapse_score: float | None = None
    collapse_groups: bool = False


class Found(NamedTuple):
    """Results, best first. rows, scores: of each. collapsed: how many near-duplicates each stands for, and the best.

    matching: how many items match the filter, None without one.
    """

    rows: list[int]
    scores: list[float]
    method: Method
    matching: int | None = None
    collapsed: Sequence[tuple[int, list[int]]] = ()


class View(Protocol[T]):
    """Searched by any number of threads. A row is an item's place in this view, and means nothing in another.

    seconds: about what a search for ten takes.
    """

    @property
    def seconds(self) -> float: ...

    def find(self, vector: Embeddings, wanted: Wanted, exclude: int | None) -> Found:
        """Returns what is wanted of the items nearest to `vector`: float32 `[D]`, of unit length. exclude: a row."""

    def find_each(self, vectors: Embeddings, k: int) -> list[Found]:
        """Returns the k items nearest to each of some vectors, float32 `[Q, D]`, as `find` does."""

    def cached(self, rows: Sequence[int]) -> list[T] | None:
        """Returns the items of some rows, or None where some of them would have to be read from disk."""

    def load(self, rows: Sequence[int]) -> list[T]:
        """Returns the items of some rows, as answers hold them."""

    def items(self, rows: Sequence[int], *, thumbnails: bool = False) -> list[Item]:
        """Returns the items of some rows, in that order."""

    def rows_of(self, item_ids: Sequence[str]) -> dict[str, int]:
        """Returns the rows of those items that there are."""

    def vectors(self, rows: Rows) -> Embeddings:
        """Returns copies of stored embeddings: float32 `[n, D]`, of unit length."""

    def contents(self, rows: Sequence[int]) -> list[Content]:
        """Returns the contents of some rows, in that order. Reads the disk."""


class Matches(Protocol):
    """The items that match a filter."""

    @property
    def count(self) -> int: ...


M = TypeVar("M", bound=Matches)


class Ranking(Protocol[M]):
    """What `find` needs of a view."""

    def matching(self, filter_: Filter) -> M:
        """Returns the items that match."""

    def best(
        self, vector: Embeddings, n: int, exclude: int | None, matching: M | None
    ) -> tuple[Rows, Embeddings, Method]:
        """Returns the rows and scores of the n best, ties by item id: fewer only where no more match."""

    def vectors(self, rows: Rows) -> Embeddings:
        """Returns their embeddings."""

    def contents(self, rows: Sequence[int]) -> list[Content]:
        """Returns their contents."""


def find(ranking: Ranking[M], vector: Embeddings, wanted: Wanted, exclude: int | None) -> Found:
    """Returns what is wanted, as View.find does."""
    matching = None if wanted.filter is None else ranking.matching(wanted.filter)
    count = None if matching is None else matching.count
    if wanted.collapse_groups or wanted.collapse_score is not None:
        return _find_distinct(ranking, vector, wanted, exclude, matching)
    rows, scores, method = ranking.best(vector, wanted.k, exclude, matching)
    if wanted.min_score is not None:
        rows, scores = _enough(rows, scores, wanted.min_score)
    return Found(rows.tolist(), scores.tolist(), method, count)


def _enough(rows: Rows, scores: Embeddings, min_score: float) -> tuple[Rows, Embeddings]:
    # Compared as float32, in which both were sent.
    count = int(np.count_nonzero(scores >= np.float32(min_score)))
    return rows[:count], scores[:count]


def _owners(ranking: Ranking[M], rows: Rows, wanted: Wanted) -> Owners:
    if wanted.collapse_groups:
        return collapse_groups(ranking.contents(rows.tolist()), wanted.k)
    return collapse(ranking.vectors(rows), wanted.collapse_score or 1.0, wanted.k)


def _find_distinct(
    ranking: Ranking[M], vector: Embeddings, wanted: Wanted, exclude: int | None, matching: M | None
) -> Found:
    n = 2 * (wanted.k + 1) + 16
    while True:
        rows, scores, method = ranking.best(vector, n, exclude, matching)
        if wanted.min_score is not None:
            rows, scores = _enough(rows, scores, wanted.min_score)
        owners = _owners(ranking, rows, wanted)
        # Where it ended early all that belongs to the k is there: the next one would not be returned.
        if len(owners) < len(rows) or len(rows) < n or n >= MOST_EXAMINED:
            break
        n = min(4 * n, MOST_EXAMINED)
    leaders = np.flatnonzero(owners == np.arange(len(owners))).tolist()
    followers: dict[int, list[int]] = {leader: [] for leader in leaders}
    for position, owner in enumerate(owners.tolist()):
        if position != owner:
            followers[owner].append(int(rows[position]))
    return Found(
        rows[leaders].tolist(),
        scores[leaders].tolist(),
        method,
        None if matching is None else matching.count,
        [(len(followers[leader]), followers[leader][:MOST_NAMED]) for leader in leaders],
    )
