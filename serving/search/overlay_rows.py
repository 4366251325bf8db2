"""Upserted items in memory, in the order in which they came: rows are added and never changed."""

import sqlite3
import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from serving.index import Embeddings, Rows
from serving.release.items import Item

T = TypeVar("T")
# The columns that filters compare, as serving.release.items has them; here an id may come twice.
_SCHEMA = """
CREATE TABLE items (
  row INTEGER PRIMARY KEY, item_id TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL
) STRICT;
CREATE TABLE attributes (
  row INTEGER NOT NULL, name TEXT NOT NULL, value ANY NOT NULL, boolean INTEGER NOT NULL, PRIMARY KEY (row, name)
) STRICT, WITHOUT ROWID;
"""
_FIRST_CAPACITY = 64


class OverlayRows(Generic[T]):
    """Items, embeddings and rendered items by row. One thread may add while others read what was there before."""

    def __init__(self, dimension: int) -> None:
        # Without their thumbnails.
        self.items: list[Item] = []
        self.thumbnails: list[bytes] = []
        self.rendered: list[T] = []
        # The rows of each id, ascending: of an item that was upserted again the older ones are dead.
        self.rows_of: dict[str, list[int]] = {}
        self._embeddings = np.empty((_FIRST_CAPACITY, dimension), np.float32)
        # Filled when somebody filters: most never do.
        self._tables: sqlite3.Connection | None = None
        self._tabled = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.items)

    def add(self, item: Item, thumbnail: bytes, embedding: Embeddings, rendered: T) -> int:
        """Adds an item, without its thumbnail, and returns its row. embedding: float32 `[D]`, of unit length."""
        row = len(self.items)
        if row == len(self._embeddings):
            # Readers keep the smaller one.
            grown = np.empty((2 * row, self._embeddings.shape[1]), np.float32)
            grown[:row] = self._embeddings
            self._embeddings = grown
        self._embeddings[row] = embedding
        self.thumbnails.append(thumbnail)
        self.rendered.append(rendered)
        self.rows_of.setdefault(item.item_id, []).append(row)
        self.items.append(item)
        return row

    def embeddings(self, count: int) -> Embeddings:
        """Returns the embeddings of the first `count` rows: float32 `[count, D]`, not copied."""
        return self._embeddings[:count]

    def where(self, query: str, parameters: Sequence[str | int | float]) -> Rows:
        """Returns the rows, int64 `[n]` in any order, that an SQL query finds which selects the column `row`."""
        with self._lock:
            tables = self._filled()
            text = tables.execute(f"SELECT group_concat(row) FROM ({query})", parameters).fetchone()[0]
        return np.fromstring(text or "", np.int64, sep=",")

    def _filled(self) -> sqlite3.Connection:
        if self._tables is None:
            self._tables = sqlite3.connect(":memory:", check_same_thread=False)
            self._tables.executescript(_SCHEMA)
        new = list(enumerate(self.items[self._tabled :], self._tabled))
        if new:
            self._tables.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?)", [(row, i.item_id, i.width, i.height) for row, i in new]
            )
            self._tables.executemany(
                "INSERT INTO attributes VALUES (?, ?, ?, ?)",
                [
                    (row, name, int(value) if isinstance(value, bool) else value, isinstance(value, bool))
                    for row, item in new
                    for name, value in item.attributes.items()
                ],
            )
            self._tabled += len(new)
        return self._tables
