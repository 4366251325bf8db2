"""A release and the overlay beside it, searched as one collection."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from serving.index import Embeddings, Rows
from serving.release.items import Item
from serving.search import filters
from serving.search.collapse import Content
from serving.search.filters import Filter
from serving.search.lru import Lru
from serving.search.overlay import Mask, Overlay
from serving.search.searcher import FILTERS_KEPT, Matching, Searcher
from serving.search.view import Found, Method, Wanted, find

# What it takes to compare one item of the overlay, in seconds: see searcher.EXACT_UP_TO.
COMPARISON_SECONDS = 3e-8
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class MergedMatching:
    """What matches a filter. release: hidden ones are left out. overlay: bool `[n]`. count: of both."""

    release: Matching
    overlay: Mask
    count: int


class Merged(Generic[T]):
    """A view: the release's rows are those of its searcher, the overlay's come after them."""

    def __init__(self, searcher: Searcher[T], overlay: Overlay[T]) -> None:
        self._searcher = searcher
        self._overlay = overlay
        self._start = searcher.release.count
        self._matching: Lru[str, MergedMatching] = Lru(FILTERS_KEPT)

    @property
    def seconds(self) -> float:
        """About what a search for ten takes."""
        return self._searcher.seconds + COMPARISON_SECONDS * self._overlay.count

    def find(self, vector: Embeddings, wanted: Wanted, exclude: int | None) -> Found:
        """See View."""
        return find(self, vector, wanted, exclude)

    def find_each(self, vectors: Embeddings, k: int) -> list[Found]:
        """See View."""
        return [self.find(vector, Wanted(k), None) for vector in vectors]

    def matching(self, filter_: Filter) -> MergedMatching:
        """Returns the items that match a filter."""
        key = filters.key(filter_)
        matching = self._matching.get([key]).get(key)
        if matching is None:
            release, overlay = self._searcher.matching(filter_), self._overlay.matches(filter_)
            if len(self._overlay.hidden):
                release = release.without(self._overlay.hidden)
            matching = MergedMatching(release, overlay, release.count + int(np.count_nonzero(overlay)))
            self._matching.put([(key, matching)])
        return matching

    def best(
        self, vector: Embeddings, n: int, exclude: int | None, matching: MergedMatching | None
    ) -> tuple[Rows, Embeddings, Method]:
        """Returns the rows and scores of the n best, ties by item id: fewer only where no more match."""
        ours = None if exclude is None or exclude < self._start else exclude - self._start
        other = None if exclude is None or exclude >= self._start else exclude
        if matching is None:
            rows, scores, method = self._not_hidden(vector, n, other)
            found, values = self._overlay.nearest(vector, n, exclude=ours)
        else:
            rows, scores, method = self._searcher.best(vector, n, other, matching.release)
            found, values = self._overlay.nearest(vector, n, matching=matching.overlay, exclude=ours)
        return *self._first(rows, scores, found + self._start, values, n), method

    def cached(self, rows: Sequence[int]) -> list[T] | None:
        """See View."""
        if self._all_of_release(rows):
            return self._searcher.cached(rows)
        others = self._searcher.cached([row for row in rows if row < self._start])
        return None if others is None else self._together(rows, others)

    def load(self, rows: Sequence[int]) -> list[T]:
        """See View."""
        return self._together(rows, self._searcher.load([row for row in rows if row < self._start]))

    def items(self, rows: Sequence[int], *, thumbnails: bool = False) -> list[Item]:
        """See View."""
        others = iter(self._searcher.items([row for row in rows if row < self._start], thumbnails=thumbnails))
        upserted = [row - self._start for row in rows if row >= self._start]
        ours = iter(self._overlay.items(upserted, thumbnails=thumbnails))
        return [next(others) if row < self._start else next(ours) for row in rows]

    def rows_of(self, item_ids: Sequence[str]) -> dict[str, int]:
        """See View."""
        upserted = {item_id: self._overlay.row_of(item_id) for item_id in item_ids}
        found = self._searcher.rows_of([item_id for item_id, row in upserted.items() if row is None])
        hidden = self._overlay.hides(np.array(list(found.values()), np.int64))
        rows = {item_id: row for (item_id, row), gone in zip(found.items(), hidden.tolist(), strict=True) if not gone}
        return rows | {item_id: row + self._start for item_id, row in upserted.items() if row is not None}

    def vectors(self, rows: Rows) -> Embeddings:
        """See View."""
        ours = rows >= self._start
        vectors = np.empty((len(rows), self._searcher.release.manifest.encoder.dimension), np.float32)
        vectors[~ours] = self._searcher.vectors(rows[~ours])
        vectors[ours] = self._overlay.vectors(rows[ours] - self._start)
        return vectors

    def contents(self, rows: Sequence[int]) -> list[Content]:
        """See View."""
        others = iter(self._searcher.contents([row for row in rows if row < self._start]))
        ours = iter(self._overlay.items([row - self._start for row in rows if row >= self._start]))
        return [next(others) if row < self._start else Content("", next(ours).sha256) for row in rows]

    def _not_hidden(self, vector: Embeddings, n: int, exclude: int | None) -> tuple[Rows, Embeddings, Method]:
        hidden = len(self._overlay.hidden)
        # As many more as are hidden where the hidden ones lie like all others; all of them at the most.
        more = min(hidden, math.ceil(2 * n * hidden / self._start) + 16)
        while True:
            rows, scores, method = self._searcher.best(vector, n + more, exclude, None)
            kept = ~self._overlay.hides(rows)
            if more == hidden or len(rows) < n + more or np.count_nonzero(kept) >= n:
                return rows[kept][:n], scores[kept][:n], method
            more = min(hidden, 4 * more)

    def _first(
        self, rows: Rows, scores: Embeddings, others: Rows, values: Embeddings, n: int
    ) -> tuple[Rows, Embeddings]:
        """Returns the n best of two that are each in order."""
        if not len(others):
            return rows, scores
        tied = np.isin(scores, values)
        rows, scores = np.concatenate([rows, others]), np.concatenate([scores, values])
        ranks = np.zeros(len(rows), np.int64)
        if tied.any():
            # Between the two, ties are broken by ids, which must be read; within each they are.
            places = np.flatnonzero(np.isin(scores, values))
            ids = [item.item_id for item in self.items(rows[places].tolist())]
            ranks[places[sorted(range(len(ids)), key=ids.__getitem__)]] = np.arange(len(ids))
        # It leaves in their order what is equal in both.
        order = np.lexsort((ranks, -scores))[:n]
        return rows[order], scores[order]

    def _all_of_release(self, rows: Sequence[int]) -> bool:
        return not rows or max(rows) < self._start

    def _together(self, rows: Sequence[int], others: list[T]) -> list[T]:
        theirs = iter(others)
        ours = iter(self._overlay.rendered([row - self._start for row in rows if row >= self._start]))
        return [next(theirs) if row < self._start else next(ours) for row in rows]
