"""What was upserted and deleted beside a release, as it stands at one moment.

An overlay never changes: who took one sees the same collection to the end, whatever comes meanwhile.
"""

import dataclasses
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from serving.index import Embeddings, Rows
from serving.release.items import Item
from serving.release.verify import SCORE_TOLERANCE
from serving.search import filters
from serving.search.filters import Filter
from serving.search.overlay_rows import OverlayRows

T = TypeVar("T")
Mask = npt.NDArray[np.bool_]


class Overlay(Generic[T]):
    """A small exact segment, and the rows of the release that it hides. Its rows are its own, from 0 on."""

    def __init__(self, rows: OverlayRows[T], live: Mask, hidden: Rows) -> None:
        """live: bool `[n]`, of the first n rows: the others were replaced or deleted. hidden: int64, ascending."""
        self._rows = rows
        self._live = live
        self._embeddings = rows.embeddings(len(live))
        self._all_live = bool(live.all())
        self.count = int(np.count_nonzero(live))
        self.hidden = hidden

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return self.count == 0 and len(self.hidden) == 0

    def row_of(self, item_id: str) -> int | None:
        """Returns the row of an item, or None where it was not upserted, or deleted since."""
        for row in reversed(self._rows.rows_of.get(item_id, ())):
            if row < len(self._live):
                return row if self._live[row] else None
        return None

    def hides(self, rows: Rows) -> Mask:
        """Returns which rows of the release, int64 `[n]`, are hidden."""
        if not len(self.hidden):
            return np.zeros(len(rows), np.bool_)
        places = np.searchsorted(self.hidden, rows)
        return self.hidden[np.minimum(places, len(self.hidden) - 1)] == rows

    def matches(self, filter_: Filter) -> Mask:
        """Returns bool `[n]`: which rows are live and match."""
        return filters.matches(filter_, self._where) & self._live

    def nearest(
        self, query: Embeddings, k: int, *, matching: Mask | None = None, exclude: int | None = None
    ) -> tuple[Rows, Embeddings]:
        """Returns rows `[m]` and exact scores `[m]` of the nearest items, best first, ties by item id; m <= k.

        query: float32 `[D]`, of unit length. matching: bool `[n]`, as `matches` returns. exclude: a row to leave out.
        """
        # Every row is compared, also those that don't count: to gather the others would take longer.
        about = np.einsum("ij,j->i", self._embeddings, query)
        wanted = self._live if matching is None else matching
        if matching is not None or not self._all_live:
            about[~wanted] = -np.inf
        if exclude is not None:
            about[exclude] = -np.inf
        bar = -np.inf
        if len(about) > k:
            bar = np.partition(about, len(about) - k)[len(about) - k]
        rows = np.flatnonzero((about > -np.inf) & (about >= bar - SCORE_TOLERANCE))
        # Row by row, as shards score: equal embeddings score exactly the same.
        scores: Embeddings = np.add.reduce(self._embeddings.take(rows, axis=0) * query, axis=1).clip(-1.0, 1.0)
        ids = [self._rows.items[row].item_id for row in rows]
        order = sorted(range(len(rows)), key=lambda i: (-scores[i], ids[i]))[:k]
        return rows[order], scores[order]

    def vectors(self, rows: Rows) -> Embeddings:
        """Returns copies of embeddings: float32 `[n, D]`, of unit length."""
        return self._embeddings[rows]

    def items(self, rows: Sequence[int], *, thumbnails: bool = False) -> list[Item]:
        """Returns the items of some rows, in that order."""
        items = [self._rows.items[row] for row in rows]
        if thumbnails:
            return [
                dataclasses.replace(item, thumbnail=self._rows.thumbnails[row])
                for row, item in zip(rows, items, strict=True)
            ]
        return items

    def rendered(self, rows: Sequence[int]) -> list[T]:
        """Returns what answers hold of some rows."""
        return [self._rows.rendered[row] for row in rows]

    def _where(self, query: str, parameters: Sequence[str | int | float]) -> Mask:
        mask = np.zeros(len(self._live), np.bool_)
        found = self._rows.where(query, parameters)
        # There may be newer rows already.
        mask[found[found < len(mask)]] = True
        return mask
