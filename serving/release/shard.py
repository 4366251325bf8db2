"""One shard of a loaded release: its index proposes, its embeddings score, its items name."""

import pathlib

import numpy as np
import numpy.typing as npt

from serving.index import Embeddings, Index, IndexParameters, Rows, load_index
from serving.release import layout, manifest
from serving.release.items import ItemShard
from serving.release.verify import DAMAGE, SCORE_TOLERANCE, ReleaseRefused, open_embeddings

Ranks = npt.NDArray[np.int32]
# What an index scores below the last proposal may still score as much when it is computed from the embeddings.
_MARGIN = 1e-6
_BLOCK = 4096  # embeddings compared at a time: 1 MiB of 64 dimensions, which stays in a core's cache
# From this share of all on, to go through all of them takes less than to gather those that are wanted.
_GATHERED = 0.35
_EACH_BLOCK = 4096  # likewise, where each is scored by a query of its own


class LoadedShard:
    """Searches one shard. Every method may be called from any number of threads."""

    def __init__(self, embeddings: Embeddings, index: Index, items: ItemShard, ranks: Ranks) -> None:
        """ranks: int32 `[n]`, the place of each row among the shard's items sorted by id."""
        # Without memmap's bookkeeping, which costs more than gathering ten rows.
        self._embeddings = embeddings.view(np.ndarray)
        self._index = index
        self.ranks = ranks
        self.items = items
        self.count = len(embeddings)

    def nearest(self, query: Embeddings, k: int, exclude: int | None, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        """Returns the rows `[m]` and exact scores `[m]` of the nearest, best first, ties by item id; m <= k.

        query: float32 `[D]`, of unit length. exclude: a row to leave out. effort: see `Index.search`.
        """
        wanted = min(k, self.count - (exclude is not None))
        if wanted < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        proposals = _proposals(wanted)
        while True:
            rows = self._index.search(query[np.newaxis], proposals, effort=effort)[0][0]
            if exclude is not None:
                rows = rows[rows != exclude]
            scores = self.score(rows, query)
            order = np.lexsort((self.ranks[rows], -scores))
            rows, scores = rows[order], scores[order]
            # Equals of the last one may not have been proposed.
            if proposals >= self.count or scores[-1] < scores[wanted - 1] - _MARGIN:
                return rows[:wanted], scores[:wanted]
            proposals *= 4

    def nearest_each(self, queries: Embeddings, k: int) -> tuple[Rows, Embeddings]:
        """Returns what `nearest` does for each of some queries, float32 `[Q, D]`: rows and scores `[Q, m]`."""
        wanted = min(k, self.count)
        if wanted < 1:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        proposals = min(_proposals(wanted), self.count)
        rows, scores = self._index.search(queries, proposals)[0], np.empty((len(queries), proposals), np.float32)
        step = max(1, _EACH_BLOCK // proposals)
        for start in range(0, len(queries), step):
            block = slice(start, start + step)
            repeated = np.repeat(queries[block], proposals, axis=0)
            scores[block] = self.score(rows[block].ravel(), repeated).reshape(-1, proposals)
        order = np.lexsort((self.ranks[rows], -scores))
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
        if proposals < self.count:
            for number in np.flatnonzero(scores[:, -1] >= scores[:, wanted - 1] - _MARGIN).tolist():
                rows[number, :wanted], scores[number, :wanted] = self.nearest(queries[number], k, None)
        return rows[:, :wanted], scores[:, :wanted]

    def nearest_among(self, query: Embeddings, k: int, rows: Rows) -> tuple[Rows, Embeddings]:
        """Returns the nearest of `rows`, int64 `[n]`, as `nearest` does, but by comparing every one of them."""
        if len(rows) > k:
            about = self._about(query, rows)
            bar = np.partition(about, len(rows) - k)[len(rows) - k]
            rows = rows[about >= bar - SCORE_TOLERANCE]
        scores = self.score(rows, query)
        order = np.lexsort((self.ranks[rows], -scores))[:k]
        return rows[order], scores[order]

    def _about(self, query: Embeddings, rows: Rows) -> Embeddings:
        """Returns the dot products of `rows` with a query: float32 `[n]`, in whatever order they are summed."""
        gathered = len(rows) < _GATHERED * self.count
        products = np.empty(len(rows) if gathered else self.count, np.float32)
        for start in range(0, len(products), _BLOCK):
            block = slice(start, start + _BLOCK)
            embeddings = self._embeddings.take(rows[block], axis=0) if gathered else self._embeddings[block]
            # Not a product by BLAS: its threads would fight with the other searches for the processors.
            np.einsum("ij,j->i", embeddings, query, out=products[block])
        return products if gathered else products[rows]

    def score(self, rows: Rows, query: Embeddings) -> Embeddings:
        """Returns the exact cosines of some rows with a query of unit length: float32 `[n]`, in [-1, 1].

        query: float32 `[D]`, or `[n, D]`, one for each row.
        """
        # Row by row, so that equal embeddings score exactly the same; a matrix product does not promise that.
        products: Embeddings = np.add.reduce(self._embeddings.take(rows, axis=0) * query, axis=1)
        return products.clip(-1.0, 1.0, out=products)

    def vectors(self, rows: Rows) -> Embeddings:
        """Returns copies of some embeddings: float32 `[n, D]`."""
        return self._embeddings[rows]


def _proposals(wanted: int) -> int:
    # Some more than wanted, because the index's order is not quite ours.
    return wanted + 1 + max(10, wanted // 10)


def load_shard(
    folder: pathlib.Path,
    shard: manifest.Shard,
    dimension: int,
    parameters: IndexParameters,
    place: tuple[int, int],
    ranks: Ranks | None = None,
) -> LoadedShard:
    """Returns a shard whose files were checked; raises ReleaseRefused where they contradict the manifest.

    place: the shard's number, and how many there are. ranks: what `check_shard` returned; nothing is checked again.
    """
    embeddings = open_embeddings(folder / shard.embeddings, shard.count, dimension, checked=ranks is not None)
    try:
        index = load_index(folder / shard.index, embeddings, parameters)
    except (*DAMAGE, FileNotFoundError) as error:
        raise ReleaseRefused(f"{shard.index}: {error}", fault="index") from error
    items, ranks = _open_items(folder, shard, place, ranks)
    return LoadedShard(embeddings, index, items, ranks)


def check_shard(
    folder: pathlib.Path, shard: manifest.Shard, dimension: int, place: tuple[int, int]
) -> tuple[ItemShard, Ranks]:
    """Returns the items of a shard whose files were checked, and the ranks of its rows, after looking at everything.

    Raises as `load_shard` does, but for the index, which isn't loaded.
    """
    open_embeddings(folder / shard.embeddings, shard.count, dimension)
    return _open_items(folder, shard, place, None)


def _open_items(
    folder: pathlib.Path, shard: manifest.Shard, place: tuple[int, int], ranks: Ranks | None
) -> tuple[ItemShard, Ranks]:
    try:
        items = ItemShard(folder / shard.items)
        if items.count != shard.count:
            raise ReleaseRefused(
                f"{shard.items} holds {items.count} items, the manifest says {shard.count}.", fault="items"
            )
        return items, _ranks(items, shard.items, place) if ranks is None else ranks
    except DAMAGE as error:
        raise ReleaseRefused(f"{shard.items}: {error}", fault="items") from error


def _ranks(items: ItemShard, name: str, place: tuple[int, int]) -> Ranks:
    number, shards = place
    ranks = np.full(items.count, -1, np.int32)
    for rank, (row, item_id) in enumerate(items.by_id()):
        if not 0 <= row < items.count:
            raise ReleaseRefused(f"{name} has a row {row}, expected rows in [0, {items.count}).", fault="items")
        if shards > 1 and layout.shard_of(item_id, shards) != number:
            raise ReleaseRefused(f"{name} holds {item_id!r}, which belongs to another shard.", fault="items")
        ranks[row] = rank
    return ranks
