"""Searches one release: chooses between index and exact comparison, filters, collapses, and remembers what it read."""

import collections
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from serving.index import Embeddings, Rows
from serving.release.items import Item
from serving.release.release import Release
from serving.search import filters
from serving.search.collapse import Content
from serving.search.filters import Filter
from serving.search.lru import Lru
from serving.search.view import Found, Method, View, Wanted, find

# Comparing every match is exact, and no dearer than asking the index, up to so many matches at all, for each proposal,
# and for each item that the index looks at. Measured with 20,000 and 100,000 items of 64 dimensions, k 10 and 100: a
# comparison takes 0.03 us (4096 of them 0.1 ms), a proposal 0.5 us, an item that a tree looks at 0.01 us.
EXACT_UP_TO = 4096
PROPOSAL_COST = 16
LOOK_COST = 1 / 3
# How much further than usual the index looks for what matches a filter.
EFFORT = 4
FILTERS_KEPT = 64
_WARM_SEARCHES = 32

T = TypeVar("T")


class Matching:
    """The items that match a filter, as a bitmap: an eighth of a byte for each item of the release.

    And as rows, where these take no more than that.
    """

    def __init__(self, mask: filters.Mask) -> None:
        self.count = int(np.count_nonzero(mask))
        self._bits = np.packbits(mask)
        self._size = len(mask)
        self._rows = np.flatnonzero(mask) if 64 * self.count <= self._size else None

    def rows(self) -> Rows:
        """Returns the rows that match: int64 `[count]`, ascending."""
        if self._rows is not None:
            return self._rows
        return np.flatnonzero(np.unpackbits(self._bits, count=self._size))

    def match(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Returns whether each of `rows` matches."""
        return (self._bits[rows >> 3] >> (7 - (rows & 7)) & 1).astype(np.bool_)

    def without(self, rows: Rows) -> "Matching":
        """Returns the items that match and are not among `rows`."""
        mask = np.unpackbits(self._bits, count=self._size).astype(np.bool_)
        mask[rows] = False
        return Matching(mask)


class Searcher(Generic[T]):
    """Searches a release and gives its items as `T`. May be used from any number of threads until it is closed."""

    def __init__(self, release: Release, render: Callable[[Item], T], *, cached_items: int) -> None:
        """render: makes of an item what answers hold. cached_items: how many of those to remember."""
        self.release = release
        self._render = render
        # An OrderedDict gives up its first entry at once; a dict walks over all that were given up before.
        self._items: collections.OrderedDict[int, T] = collections.OrderedDict()
        self._cached_items = cached_items
        self._lock = threading.Lock()
        self._matching: Lru[str, Matching] = Lru(FILTERS_KEPT)
        parameters = release.manifest.index.parameters
        share = 1.0 if release.exact else min(1.0, EFFORT * parameters["leaves_to_search"] / parameters["leaves"])
        self._looked_at = share * release.count
        # Of a search for ten, once it was measured.
        self.seconds = math.inf
        # Not this itself: who is a part of what it holds is freed late.
        self._merged: View[T] | None = None

    @property
    def view(self) -> View[T]:
        """What queries are answered from: this, or it and what was changed beside it."""
        return self._merged or self

    def show(self, merged: View[T] | None) -> None:
        """Makes `merged` the view, or this itself, in one assignment."""
        self._merged = merged

    def close(self) -> None:
        """Closes the release; no search may be running."""
        self._merged = None
        self.release.close()

    def warm(self) -> None:
        """Searches for the release's golden queries, so that the first clients needn't wait; and takes the time."""
        seconds = []
        for query in self.release.manifest.golden[:_WARM_SEARCHES]:
            vector = self.release.embedding(query.item_id)
            if vector is not None:
                begun = time.perf_counter()
                found = self.find(vector, Wanted(10), None)
                seconds.append(time.perf_counter() - begun)
                self.load(found.rows)
        if seconds:
            # The least: the others waited for somebody else.
            self.seconds = min(seconds)

    def find(self, vector: Embeddings, wanted: Wanted, exclude: int | None) -> Found:
        """Returns what is wanted of the items nearest to `vector`: float32 `[D]`, of unit length. exclude: a row."""
        return find(self, vector, wanted, exclude)

    def find_each(self, vectors: Embeddings, k: int) -> list[Found]:
        """See View."""
        rows, scores = self.release.nearest_each(vectors, k)
        method = Method.EXACT if self.release.exact else Method.INDEX
        return [Found(*found, method) for found in zip(rows.tolist(), scores.tolist(), strict=True)]

    def cached(self, rows: Sequence[int]) -> list[T] | None:
        """Returns the items of some rows, or None where some of them would have to be read from disk."""
        # Without a lock, which would cost as much as the look-ups: a dict is whole at any moment.
        found = [self._items.get(row) for row in rows]
        return None if None in found else found  # type: ignore[return-value]  # there is no None in it

    def load(self, rows: Sequence[int]) -> list[T]:
        """Returns the items of some rows."""
        found = {row: self._items.get(row) for row in rows}
        missing = [row for row, item in found.items() if item is None]
        if missing:
            read = [self._render(item) for item in self.release.items(missing)]
            found.update(zip(missing, read, strict=True))
            self.remember(missing, read)
        return [found[row] for row in rows]  # type: ignore[misc]  # none is missing any more

    def remembered(self) -> list[int]:
        """Returns the rows whose items are kept ready for answers, in the order in which they came."""
        with self._lock:
            return list(self._items)

    def remember(self, rows: Sequence[int], items: Sequence[T]) -> None:
        """Keeps the items of some rows, as answers hold them, ready for answers."""
        with self._lock:
            self._items.update(zip(rows, items, strict=True))
            # What came first goes first: to keep count of what is asked for would make every search slower.
            while len(self._items) > self._cached_items:
                self._items.popitem(last=False)

    def items(self, rows: Sequence[int], *, thumbnails: bool = False) -> list[Item]:
        """Returns the items of some rows, in that order. Reads the disk."""
        return self.release.items(rows, thumbnails=thumbnails)

    def rows_of(self, item_ids: Sequence[str]) -> dict[str, int]:
        """Returns the rows of those items that the release holds. Reads the disk."""
        return self.release.rows_of(item_ids)

    def vectors(self, rows: Rows) -> Embeddings:
        """Returns copies of stored embeddings: float32 `[n, D]`, of unit length."""
        return self.release.vectors(rows)

    def contents(self, rows: Sequence[int]) -> list[Content]:
        """Returns the contents of some rows, in that order. Reads the disk."""
        return [Content(*content) for content in self.release.contents(rows)]

    def matching(self, filter_: Filter) -> Matching:
        """Returns the items that match a filter."""
        key = filters.key(filter_)
        matching = self._matching.get([key]).get(key)
        if matching is None:
            matching = Matching(filters.matches(filter_, self.release.where))
            self._matching.put([(key, matching)])
        return matching

    def best(
        self, vector: Embeddings, n: int, exclude: int | None, matching: Matching | None
    ) -> tuple[Rows, Embeddings, Method]:
        """Returns the rows and scores of the n best, ties by item id: fewer only where no more match."""
        if matching is not None:
            return self._best_matching(vector, n, exclude, matching)
        rows, scores = self.release.nearest(vector, n, exclude)
        return rows, scores, Method.EXACT if self.release.exact else Method.INDEX

    def _best_matching(
        self, vector: Embeddings, n: int, exclude: int | None, matching: Matching
    ) -> tuple[Rows, Embeddings, Method]:
        # Matches may be spread otherwise than all items are, so the index is asked for twice as many as should do and
        # looks further than usual. Where that doesn't hold them they lie far from the query: deeper proposals would
        # cost more than comparing every match, and miss some.
        proposals = math.ceil(2 * n * self.release.count / max(1, matching.count)) + 16
        if matching.count > max(EXACT_UP_TO, PROPOSAL_COST * proposals, LOOK_COST * self._looked_at):
            rows, scores = self.release.nearest(vector, proposals, exclude, effort=EFFORT)
            kept = matching.match(rows)
            if np.count_nonzero(kept) >= n:
                method = Method.EXACT_FILTERED if self.release.exact else Method.INDEX_FILTERED
                return rows[kept][:n], scores[kept][:n], method
        rows = matching.rows()
        if exclude is not None:
            rows = rows[rows != exclude]
        return *self.release.nearest_among(vector, n, rows), Method.EXACT_FILTERED
