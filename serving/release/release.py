"""A release in memory: the nearest items, by rows and exact scores, and what is known of an item.

A row is a place in what is loaded of the release, in [0, count): its shards one after the other, each in datapoint
order.
"""

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from serving.index import EXACT_KINDS, Embeddings, Rows
from serving.journal.state import UpdatesState
from serving.release import layout
from serving.release.encoder_info import EncoderInfo
from serving.release.items import Item, ItemShard
from serving.release.manifest import Manifest
from serving.release.shard import LoadedShard, Ranks

Mask = npt.NDArray[np.bool_]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A result. item: without its thumbnail. score: exact cosine with the query, in [-1, 1]."""

    item: Item
    score: float


class Release:
    """A release that may be served. Its methods may be called from any number of threads until it is closed."""

    def __init__(
        self,
        manifest: Manifest,
        encoder_info: EncoderInfo,
        shards: Sequence[LoadedShard],
        updates: UpdatesState | None = None,
        numbers: Sequence[int] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """updates: what was upserted and deleted up to the manifest's watermark; None for nothing.

        numbers: of each of `shards` its number in the manifest; None where they are all of them.
        ranks: what `rank_together` returns, where that is known.
        """
        self.manifest = manifest
        self.encoder_info = encoder_info
        self.updates = updates or UpdatesState(None)
        self._shards = shards
        self._all_shards = len(manifest.index.shards)
        # By its number, the place of each shard among those that are loaded.
        loaded = range(len(shards)) if numbers is None else numbers
        self._places = {number: place for place, number in enumerate(loaded)}
        self._starts = np.cumsum([0, *(shard.count for shard in shards)])
        self.count = int(self._starts[-1])
        self._ranks = rank_together([(shard.items, shard.ranks) for shard in shards]) if ranks is None else ranks

    @property
    def exact(self) -> bool:
        """Whether every item is compared with every query: `nearest` then misses nothing."""
        return self.manifest.index.kind in EXACT_KINDS

    def search(self, vector: npt.ArrayLike, k: int, *, exclude: str | None = None) -> list[Neighbor]:
        """Returns the k items most like `vector`, best first, ties by item id; fewer only where there are no more.

        Args:
          vector: `[D]`, of any length but zero.
          k: at least 1.
          exclude: the id of an item to leave out; one that isn't held changes nothing.

        Raises:
          ValueError: where `vector` has another shape, or NaN, or infinity, or is all zero.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        query = self.unit(vector)
        rows, scores = self.nearest(query, k, None if exclude is None else self.row_of(exclude))
        return [Neighbor(*pair) for pair in zip(self.items(rows.tolist()), scores.tolist(), strict=True)]

    def unit(self, vector: npt.ArrayLike) -> Embeddings:
        """Returns `vector` with length 1, float32 `[D]`; raises ValueError as `search` does."""
        query = vector
        if not isinstance(query, np.ndarray) or query.dtype != np.float32:
            with np.errstate(over="ignore"):  # what is too large for a float32 becomes infinite, and is refused below
                query = np.asarray(query, np.float32)
        dimension = self.manifest.encoder.dimension
        if query.shape != (dimension,):
            raise ValueError(f"vector must have {dimension} values, got shape {query.shape}.")
        # In float64, where the square of no float32 overflows or vanishes.
        wide = query.astype(np.float64)
        norm = float(np.dot(wide, wide)) ** 0.5
        if not 0 < norm < np.inf:
            raise ValueError(f"vector must be finite and not all zero, got a length of {norm}.")
        return (wide / norm).astype(np.float32)

    def nearest(
        self, query: Embeddings, k: int, exclude: int | None = None, *, effort: int = 1
    ) -> tuple[Rows, Embeddings]:
        """Returns the rows `[m]` and exact scores `[m]` that the index finds nearest, best first, ties by item id.

        query: float32 `[D]`, of unit length. k: at least 1. exclude: a row to leave out. m is k, or all there are.
        effort: see `Index.search`.
        """
        if len(self._shards) == 1:
            return self._shards[0].nearest(query, k, exclude, effort=effort)
        rows, scores = [_NO_ROWS], [_NO_SCORES]
        for shard, start in zip(self._shards, self._starts.tolist(), strict=False):
            ours = exclude is not None and start <= exclude < start + shard.count
            row = exclude - start if ours and exclude is not None else None
            found, values = shard.nearest(query, k, row, effort=effort)
            rows.append(found + start)
            scores.append(values)
        return self._first(np.concatenate(rows), np.concatenate(scores), k)

    def nearest_each(self, queries: Embeddings, k: int) -> tuple[Rows, Embeddings]:
        """Returns what `nearest` does for each of some queries, float32 `[Q, D]`: rows and scores `[Q, m]`.

        To ask for many at once takes a fraction of the time.
        """
        if len(self._shards) == 1:
            return self._shards[0].nearest_each(queries, k)
        none = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        found = [shard.nearest_each(queries, k) for shard in self._shards] or [none]
        starts = self._starts.tolist()
        rows = np.concatenate([ours + start for (ours, _), start in zip(found, starts, strict=False)], axis=1)
        scores = np.concatenate([values for _, values in found], axis=1)
        order = np.lexsort((self._ranks[rows], -scores))[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def nearest_among(self, query: Embeddings, k: int, rows: Rows) -> tuple[Rows, Embeddings]:
        """Returns the nearest of `rows`, int64 `[n]` ascending, as `nearest` does, but compares every one of them."""
        found, scores = [_NO_ROWS], [_NO_SCORES]
        bounds = np.searchsorted(rows, self._starts).tolist()
        for number, shard in enumerate(self._shards):
            start = int(self._starts[number])
            nearest, values = shard.nearest_among(query, k, rows[bounds[number] : bounds[number + 1]] - start)
            found.append(nearest + start)
            scores.append(values)
        return self._first(np.concatenate(found), np.concatenate(scores), k)

    def vectors(self, rows: Rows) -> Embeddings:
        """Returns copies of stored embeddings: float32 `[n, D]`, of unit length."""
        vectors = np.empty((len(rows), self.manifest.encoder.dimension), np.float32)
        for shard, start in zip(self._shards, self._starts.tolist(), strict=False):
            ours = (rows >= start) & (rows < start + shard.count)
            vectors[ours] = shard.vectors(rows[ours] - start)
        return vectors

    def where(self, query: str, parameters: Sequence[str | int | float]) -> Mask:
        """Returns bool `[count]`: whether an SQL query, which selects the column `row` of a shard, finds the row."""
        mask = np.zeros(self.count, np.bool_)
        for shard, start in zip(self._shards, self._starts.tolist(), strict=False):
            mask[shard.items.rows_where(query, parameters) + start] = True
        return mask

    def items(self, rows: Sequence[int], *, thumbnails: bool = False) -> list[Item]:
        """Returns the items of some rows, in that order."""
        return self._by_row(rows, lambda items, rows: items.by_row(rows, thumbnails=thumbnails))

    def contents(self, rows: Sequence[int]) -> list[tuple[str, str]]:
        """Returns of some rows, in that order, the duplicate group, empty for none, and the sha256."""
        return self._by_row(rows, ItemShard.groups_by_row)

    def _by_row(self, rows: Sequence[int], read: Callable[[ItemShard, Sequence[int]], list[T]]) -> list[T]:
        if len(self._shards) == 1:
            return read(self._shards[0].items, rows)
        numbers = (np.searchsorted(self._starts, rows, side="right") - 1).tolist()
        found: dict[int, T] = {}
        for number in set(numbers):
            ours = [row for row, owner in zip(rows, numbers, strict=True) if owner == number]
            start = int(self._starts[number])
            found.update(zip(ours, read(self._shards[number].items, [row - start for row in ours]), strict=True))
        return [found[row] for row in rows]

    def row_of(self, item_id: str) -> int | None:
        """Returns the row of an item, or None where the release doesn't hold it."""
        place = self._places.get(layout.shard_of(item_id, self._all_shards))
        row = None if place is None else self._shards[place].items.row_of(item_id)
        return None if row is None or place is None else row + int(self._starts[place])

    def rows_of(self, item_ids: Sequence[str]) -> dict[str, int]:
        """Returns the rows of those items that the release holds."""
        owners = [self._places.get(layout.shard_of(item_id, self._all_shards)) for item_id in item_ids]
        found: dict[str, int] = {}
        for place in set(owners):
            if place is None:
                continue
            ours = [item_id for item_id, owner in zip(item_ids, owners, strict=True) if owner == place]
            start = int(self._starts[place])
            found.update((name, row + start) for name, row in self._shards[place].items.rows_of(ours).items())
        return found

    def owns(self, item_id: str) -> bool:
        """Returns whether the shard that an item of this id belongs to is loaded, whether or not it holds one."""
        return len(self._places) == self._all_shards or layout.shard_of(item_id, self._all_shards) in self._places

    def get_item(self, item_id: str, thumbnail: bool = False) -> Item | None:
        """Returns an item, or None where the release doesn't hold it."""
        row = self.row_of(item_id)
        return None if row is None else self.items([row], thumbnails=thumbnail)[0]

    def embedding(self, item_id: str) -> Embeddings | None:
        """Returns the stored embedding of an item, float32 `[D]` of unit length, or None where it isn't held."""
        row = self.row_of(item_id)
        return None if row is None else self.vectors(np.array([row]))[0]

    def close(self) -> None:
        """Frees what the release holds; no search may be running."""
        self.updates.close()
        for shard in self._shards:
            shard.items.close()

    def _first(self, rows: Rows, scores: Embeddings, k: int) -> tuple[Rows, Embeddings]:
        order = np.lexsort((self._ranks[rows], -scores))[:k]
        return rows[order], scores[order]


_NO_ROWS = np.empty(0, np.int64)
_NO_SCORES = np.empty(0, np.float32)


def rank_together(shards: Sequence[tuple[ItemShard, Ranks]]) -> Ranks:
    """Returns the place of each row of all shards, one after the other, among all their items sorted by id.

    shards: of each its items, and their ranks among themselves. All: int32 `[count]`.
    """
    if len(shards) == 1:
        return shards[0][1]
    starts = np.cumsum([0, *(items.count for items, _ in shards)]).tolist()
    ids = [_ids(items, start) for (items, _), start in zip(shards, starts, strict=False)]
    ranks = np.empty(starts[-1], np.int32)
    for rank, (_, row) in enumerate(heapq.merge(*ids)):
        ranks[row] = rank
    return ranks


def _ids(items: ItemShard, start: int) -> Iterator[tuple[str, int]]:
    for row, item_id in items.by_id():
        yield item_id, row + start
