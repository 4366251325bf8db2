"""The items of a shard: ids, attributes and thumbnails in one read-only SQLite file, by row in datapoint order."""

import contextlib
import dataclasses
import math
import pathlib
import sqlite3
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Attribute = str | int | float | bool

# STRICT, so that a column holds what it says; `value` keeps the type it was given, except that SQLite has no booleans.
_SCHEMA = """
CREATE TABLE items (
  row INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, uri TEXT NOT NULL, sha256 TEXT NOT NULL,
  width INTEGER NOT NULL, height INTEGER NOT NULL, source_size INTEGER NOT NULL, source_version TEXT NOT NULL,
  thumbnail BLOB NOT NULL, perceptual_hash INTEGER, duplicate_group TEXT
) STRICT;
CREATE TABLE attributes (
  row INTEGER NOT NULL, name TEXT NOT NULL, value ANY NOT NULL, boolean INTEGER NOT NULL, PRIMARY KEY (row, name)
) STRICT, WITHOUT ROWID;
"""
# For filters: without these each comparison would read every item, with its thumbnail. They are 4 % of a file.
_INDEXES = """
CREATE INDEX attribute_values ON attributes (name, value, boolean);
CREATE INDEX item_sizes ON items (width, height);
"""
_COLUMNS = "row, item_id, uri, sha256, width, height"
# Releases of before there were reindexes lack these.
_SOURCE = ("source_size", "source_version")
# Those of before near-duplicates were looked for lack these.
_DUPLICATES = ("perceptual_hash", "duplicate_group")
_ROW = range(11)  # its columns
_BATCH = 1000  # items written, or read in one go
_INTEGERS = range(-(2**63), 2**63)


@dataclasses.dataclass(frozen=True)
class Item:
    """An image of the collection. sha256: of its canonical bytes, in hex. width, height: pixels.

    attributes: by name; a label, where asked for, is the attribute `label`. thumbnail: a small JPEG or PNG, empty where
    it wasn't asked for. source_size, source_version: of what lay at `uri` when it was read, in bytes, and what changes
    with its content (mtime in ns, etag); -1 and empty where nobody knows. perceptual_hash: 64 bits, as an int64, of the
    thumbnail; None where it has none, or nobody has looked. duplicate_group: the smallest id of its near-duplicates,
    its own among them; empty for none.
    """

    item_id: str
    uri: str
    sha256: str
    width: int
    height: int
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    thumbnail: bytes = b""
    source_size: int = -1
    source_version: str = ""
    perceptual_hash: int | None = None
    duplicate_group: str = ""

    def __post_init__(self) -> None:
        if not self.item_id:
            raise ValueError("item_id must not be empty.")


class Source(NamedTuple):
    """What tells whether an item's image is still the one that it was made from; fields as an Item has them."""

    row: int
    uri: str
    sha256: str
    size: int
    version: str
    attributes: Mapping[str, Attribute]


def write_items(path: pathlib.Path, items: Iterable[Item]) -> int:
    """Writes the items of a shard in datapoint order into a new file, as ItemWriter does; returns how many."""
    with ItemWriter(path) as writer:
        for item in items:
            writer.add(item)
    return writer.count


class ItemWriter:
    """Writes the items of a shard in datapoint order into a new file, which is whole when the context ends.

    The same items give the same bytes. Memory is bounded by a batch of items, not by their number. indexed: whether
    filters will be asked of the file.

    Raises:
      ValueError: where an id comes twice, or an attribute is neither text, an int64, a finite float nor a bool.
      IndexError: where a copied item is not there.
      FileExistsError: where `path` exists.
    """

    def __init__(self, path: pathlib.Path, *, indexed: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        self._indexed = indexed
        self._connection = sqlite3.connect(path.absolute(), uri=True)
        # Nobody reads it before it is whole, and who writes it starts over after a crash.
        self._connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        self._batch: list[Item] = []
        self._written = 0

    def __enter__(self) -> "ItemWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._connection.commit()
                if self._indexed:
                    self._connection.executescript(_INDEXES)
        finally:
            self._connection.close()

    @property
    def count(self) -> int:
        """How many items were written or wait to be."""
        return self._written + len(self._batch)

    def add(self, item: Item) -> None:
        """Adds an item."""
        self._batch.append(item)
        if len(self._batch) == _BATCH:
            self._flush()

    def copy(self, file: pathlib.Path, rows: npt.NDArray[np.int64] | None = None) -> int:
        """Adds the items at `rows`, int64 `[n]`, of a file of items, or all of it; returns how many.

        SQLite copies them, in a fifth of the time of reading and writing them. Groups are left out: they are those of
        one collection.
        """
        self._flush()
        # Nothing can be attached within a transaction.
        self._connection.commit()
        with contextlib.closing(ItemShard(file)) as shard:
            count = shard.count if rows is None else len(rows)
            columns = f"{_COLUMNS.removeprefix('row, ')}, {shard.source_columns}, thumbnail, {shard.hash_column}, NULL"
        connection = self._connection
        connection.execute("ATTACH ? AS base", (_read_only(file),))
        if rows is None:
            # Both are read in this order, so nothing is sorted.
            row, found = f"row + {self._written}", "FROM base.{0} ORDER BY row"
        else:
            connection.execute("CREATE TEMP TABLE copied (row INTEGER PRIMARY KEY, old INTEGER NOT NULL)")
            connection.executemany("INSERT INTO copied VALUES (?, ?)", enumerate(rows.tolist(), self._written))
            # CROSS: in the order of `copied`, not in that of the base.
            row, found = "copied.row", "FROM copied CROSS JOIN base.{0} AS b ON b.row = old ORDER BY copied.row"
        copied = connection.execute(f"INSERT INTO items SELECT {row}, {columns} {found.format('items')}")
        if copied.rowcount != count:
            raise IndexError(f"{file.name} must hold each of {count} rows, it holds {copied.rowcount} of them.")
        connection.execute(
            f"INSERT INTO attributes SELECT {row}, name, value, boolean {found.format('attributes')}, name"
        )
        connection.commit()
        connection.execute("DROP TABLE IF EXISTS temp.copied")
        connection.execute("DETACH base")
        self._written += count
        return count

    def _flush(self) -> None:
        if not self._batch:
            return
        batch = list(enumerate(self._batch, self._written))
        try:
            self._connection.executemany(
                f"INSERT INTO items VALUES ({_marks(_ROW)})",
                [
                    (
                        *(n, i.item_id, i.uri, i.sha256, i.width, i.height, i.source_size, i.source_version),
                        *(i.thumbnail, i.perceptual_hash, i.duplicate_group or None),
                    )
                    for n, i in batch
                ],
            )
        except sqlite3.IntegrityError as error:
            raise ValueError(f"an item id comes twice among rows {batch[0][0]} to {batch[-1][0]}: {error}") from error
        self._connection.executemany(
            "INSERT INTO attributes VALUES (?, ?, ?, ?)",
            [
                (n, name, *_stored(item.item_id, name, value))
                for n, item in batch
                for name, value in sorted(item.attributes.items())
            ],
        )
        self._written += len(batch)
        self._batch = []


class ItemShard:
    """Read-only access to a file that `write_items` wrote, from any number of threads."""

    def __init__(self, path: pathlib.Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there.")
        self._uri = _read_only(path)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self.count: int = self._connection().execute("SELECT count(*) FROM items").fetchone()[0]
        names = {name for _, name, *_ in self._connection().execute("PRAGMA table_info(items)")}
        self.source_columns = ", ".join(_SOURCE if names.issuperset(_SOURCE) else ("-1", "''"))
        self.hash_column, self._group_column = _DUPLICATES if names.issuperset(_DUPLICATES) else ("NULL", "NULL")
        self._attributes: bool = self._connection().execute("SELECT EXISTS (SELECT * FROM attributes)").fetchone()[0]

    def by_row(self, rows: Sequence[int], *, thumbnails: bool = False) -> list[Item]:
        """Returns the items of `rows` in that order; raises IndexError where there is no such row."""
        found: dict[int, Item] = {}
        for start in range(0, len(rows), _BATCH):
            found.update(self._read(rows[start : start + _BATCH], thumbnails))
        try:
            return [found[row] for row in rows]
        except KeyError as error:
            raise IndexError(f"row must be in [0, {self.count}), got {error.args[0]}.") from error

    def row_of(self, item_id: str) -> int | None:
        """Returns the row of an item, or None where the shard doesn't hold it."""
        found = self._connection().execute("SELECT row FROM items WHERE item_id = ?", (item_id,)).fetchone()
        return None if found is None else int(found[0])

    def rows_of(self, item_ids: Sequence[str]) -> dict[str, int]:
        """Returns the rows of those items that the shard holds."""
        found: dict[str, int] = {}
        for start in range(0, len(item_ids), _BATCH):
            batch = item_ids[start : start + _BATCH]
            query = f"SELECT item_id, row FROM items WHERE item_id IN ({_marks(batch)})"
            found.update(self._connection().execute(query, batch))
        return found

    def sources_of(self, item_ids: Sequence[str]) -> dict[str, Source]:
        """Returns the sources of those items that the shard holds: cheaper than the items."""
        found: dict[str, Source] = {}
        for start in range(0, len(item_ids), _BATCH):
            batch = item_ids[start : start + _BATCH]
            query = (
                f"SELECT item_id, row, uri, sha256, {self.source_columns} FROM items WHERE item_id IN ({_marks(batch)})"
            )
            rows = self._connection().execute(query, batch).fetchall()
            attributes = self._attributes_of([row[1] for row in rows])
            for item_id, row, uri, sha256, size, version in rows:
                found[item_id] = Source(row, uri, sha256, size, version, attributes.get(row, {}))
        return found

    def rows_where(self, query: str, parameters: Sequence[str | int | float]) -> npt.NDArray[np.int64]:
        """Returns the rows, int64 `[n]` in any order, that a query finds which selects the column `row`."""
        # As one string: SQLite makes it without Python's lock, and in a quarter of the time that fetching rows takes.
        text = self._connection().execute(f"SELECT group_concat(row) FROM ({query})", parameters).fetchone()[0]
        return np.fromstring(text or "", np.int64, sep=",")

    def by_id(self) -> Iterator[tuple[int, str]]:
        """Yields every item's row and id, sorted by id."""
        yield from self._connection().execute("SELECT row, item_id FROM items ORDER BY item_id")

    def contents(self) -> Iterator[tuple[int, str, int | None]]:
        """Yields every item's row, sha256 and perceptual hash, in datapoint order."""
        yield from self._connection().execute(f"SELECT row, sha256, {self.hash_column} FROM items ORDER BY row")

    def groups_by_row(self, rows: Sequence[int]) -> list[tuple[str, str]]:
        """Returns of each row the duplicate group, empty for none, and the sha256."""
        found: dict[int, tuple[str, str]] = {}
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            query = f"SELECT row, {self._group_column}, sha256 FROM items WHERE row IN ({_marks(batch)})"
            found.update(
                (row, (group or "", sha256)) for row, group, sha256 in self._connection().execute(query, batch)
            )
        return [found[row] for row in rows]

    def __iter__(self) -> Iterator[Item]:
        """Yields every item in datapoint order, with its thumbnail, a batch in memory at a time."""
        for start in range(0, self.count, _BATCH):
            yield from self.by_row(range(start, min(start + _BATCH, self.count)), thumbnails=True)

    def close(self) -> None:
        """Closes the file; no other thread may be reading."""
        with self._lock:
            self._closed = True
            for connection in self._connections:
                connection.close()

    def _read(self, rows: Sequence[int], thumbnails: bool) -> dict[int, Item]:
        connection = self._connection()
        thumbnail = "thumbnail" if thumbnails else "x''"
        attributes = self._attributes_of(rows)
        columns = f"{_COLUMNS}, {self.source_columns}, {thumbnail}, {self.hash_column}, {self._group_column}"
        found = connection.execute(f"SELECT {columns} FROM items WHERE row IN ({_marks(rows)})", rows)
        return {
            row: Item(
                *(item_id, uri, sha256, width, height, attributes.get(row, {}), small, size, version),
                *(perceptual_hash, group or ""),
            )
            for row, item_id, uri, sha256, width, height, size, version, small, perceptual_hash, group in found
        }

    def _attributes_of(self, rows: Sequence[int]) -> dict[int, dict[str, Attribute]]:
        attributes: dict[int, dict[str, Attribute]] = {}
        if self._attributes:
            query = f"SELECT row, name, value, boolean FROM attributes WHERE row IN ({_marks(rows)})"
            for row, name, value, boolean in self._connection().execute(query, rows):
                attributes.setdefault(row, {})[name] = bool(value) if boolean else value
        return attributes

    def _connection(self) -> sqlite3.Connection:
        # One connection a thread: they share the operating system's cache of the file, and no lock.
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self._lock:
                if self._closed:
                    raise ValueError("the items are closed.")
                try:
                    connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
                    self._connections.append(connection)
                except sqlite3.OperationalError:
                    if not self._connections:
                        raise
                    # Pruned while we hold it. SQLite lets threads share one that is open, one after the other.
                    connection = self._connections[0]
                # The file may come from elsewhere: nothing in its schema may call anything.
                connection.execute("PRAGMA trusted_schema = OFF")
                # Mapped, reading ten rows costs two thirds of what it costs by read().
                connection.execute(f"PRAGMA mmap_size = {2**40}")
            self._local.connection = connection
        return connection


def _read_only(path: pathlib.Path) -> str:
    # Immutable: nobody writes, so SQLite needn't lock the file or look for a journal.
    return f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro&immutable=1"


def _marks(rows: Sequence[object]) -> str:
    return ",".join("?" * len(rows))


def _stored(item_id: str, name: str, value: Attribute) -> tuple[str | int | float, int]:
    if isinstance(value, bool):
        return int(value), 1
    if isinstance(value, str) or (isinstance(value, int) and value in _INTEGERS):
        return value, 0
    # SQLite would keep NaN as NULL.
    if isinstance(value, float) and math.isfinite(value):
        return value, 0
    raise ValueError(
        f"attribute {name!r} of {item_id!r} must be text, an int64, a finite float or a bool, got {value!r}."
    )
