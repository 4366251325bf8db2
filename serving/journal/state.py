"""The updates that a release carries: each item upserted or deleted up to its watermark, by its last change."""

import concurrent.futures
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import sqlite3
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from serving.journal.clock import Stamp
from serving.journal.contents import Contents
from serving.journal.entry import Attribute, Upsert
from serving.journal.reader import JournalReader, read_segment
from serving.journal.table import STATE_SCHEMA, Merge
from serving.storage import Store

_logger = logging.getLogger(__name__)

_COLUMNS = (
    "item_id, milliseconds, count, writer, deleted, sha256, uri, attributes, width, height, "
    "purge_milliseconds, purge_count, purge_writer"
)
_BATCH = 1000  # rows read in one go
# Each is synced before it counts; disks and buckets take several at a time.
_PUTS = 8


@dataclasses.dataclass(frozen=True)
class State:
    """What became of one item. sha256: of its canonical bytes, in hex. width, height: pixels. A deleted one has none.

    purged: the stamp of the latest delete that asked for its bytes to be erased, also where it was upserted since.
    """

    item_id: str
    stamp: Stamp
    deleted: bool
    sha256: str = ""
    uri: str = ""
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    width: int = 0
    height: int = 0
    purged: Stamp | None = None


@dataclasses.dataclass(frozen=True)
class Folded:
    """What `fold` wrote. watermark: of each writer the last seq that it holds. upserts, tombstones: how many."""

    watermark: dict[str, int]
    upserts: int
    tombstones: int


class UpdatesState:
    """Read-only access to a file that `fold` wrote, from any number of threads."""

    def __init__(self, path: pathlib.Path | None) -> None:
        """path: None for no updates at all, which is what a release without them carries.

        Raises FileNotFoundError, or sqlite3.DatabaseError where it isn't such a file.
        """
        if path is None:
            self._connection = sqlite3.connect(":memory:", check_same_thread=False)
            self._connection.executescript(STATE_SCHEMA)
        else:
            if not path.is_file():
                raise FileNotFoundError(f"{path} is not there.")
            # Immutable: nobody writes, so SQLite needn't lock the file or look for a journal.
            uri = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro&immutable=1"
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            # The file may come from elsewhere: nothing in its schema may call anything.
            self._connection.execute("PRAGMA trusted_schema = OFF")
        self._lock = threading.Lock()
        counts = dict(self._rows("SELECT deleted, count(*) FROM updates GROUP BY deleted"))
        self.upsert_count: int = counts.get(0, 0)
        self.tombstone_count: int = counts.get(1, 0)

    def __len__(self) -> int:
        """Returns how many items were changed."""
        return self.upsert_count + self.tombstone_count

    def get(self, item_id: str) -> State | None:
        """Returns what became of an item, or None where it was never changed."""
        found = self._rows(f"SELECT {_COLUMNS} FROM updates WHERE item_id = ?", (item_id,))
        return _state(found[0]) if found else None

    def upserts(self) -> Iterator[State]:
        """Yields the live upserts, sorted by item id."""
        return self._all("NOT deleted")

    def tombstones(self) -> Iterator[State]:
        """Yields the deleted items, sorted by item id."""
        return self._all("deleted")

    def purges(self) -> Iterator[State]:
        """Yields the items whose bytes were asked to be erased, sorted by item id."""
        return self._all("purge_milliseconds IS NOT NULL")

    def __iter__(self) -> Iterator[State]:
        """Yields every changed item, sorted by item id, a batch in memory at a time."""
        return self._all("TRUE")

    def newest(self) -> State | None:
        """Returns the item that was changed last, or None where there is none."""
        found = self._rows(
            f"SELECT {_COLUMNS} FROM updates ORDER BY milliseconds DESC, count DESC, writer DESC LIMIT 1"
        )
        return _state(found[0]) if found else None

    def close(self) -> None:
        """Closes the file; no other thread may be reading."""
        self._connection.close()

    def _all(self, condition: str) -> Iterator[State]:
        last = ""
        query = f"SELECT {_COLUMNS} FROM updates WHERE {condition} AND item_id > ? ORDER BY item_id LIMIT {_BATCH}"
        while rows := self._rows(query, (last,)):
            yield from map(_state, rows)
            last = rows[-1][0]

    def _rows(self, query: str, parameters: tuple[str, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, parameters).fetchall()


def fold(store: Store, base: pathlib.Path | None, watermark: Mapping[str, int], target: pathlib.Path) -> Folded:
    """Writes what a base release carries and all of the journal beyond its watermark, as one state.

    The images of live upserts are saved in contents/. It may be killed at any time and run again: the same base and the
    same journal give the same bytes, and `target` appears whole. Memory is bounded by a segment.

    Args:
      store: the serving root.
      base: the state of the base release, a local file; None where it carries none.
      watermark: of the base release.
      target: where the state is written, replacing what is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    reader = JournalReader(store, watermark)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fold-") as folder:
        with contextlib.closing(Merge(pathlib.Path(folder, "work.sqlite"), base)) as merge:
            for _, seq, entries in reader.read():
                merge.add(seq, entries)
            _save_contents(store, merge)
            whole = pathlib.Path(folder, "state.sqlite")
            merge.write(whole)
        with whole.open("rb") as handle:
            os.fsync(handle.fileno())
        with contextlib.closing(UpdatesState(whole)) as state:
            folded = Folded(reader.heads, state.upsert_count, state.tombstone_count)
        whole.replace(target)
    _logger.info("folded the journal of %s: %d upserts, %d tombstones", store.uri, folded.upserts, folded.tombstones)
    return folded


def _save_contents(store: Store, merge: Merge) -> None:
    contents = Contents(store)
    with concurrent.futures.ThreadPoolExecutor(_PUTS) as pool:
        for writer, seq, wanted in merge.new_contents():
            images = {
                entry.change.sha256: entry.change.image
                for entry in read_segment(store, writer, seq)
                if isinstance(entry.change, Upsert) and entry.change.sha256 in wanted
            }
            list(pool.map(contents.put, images.keys(), images.values()))


def _state(row: tuple[Any, ...]) -> State:
    item_id, milliseconds, count, writer, deleted, sha256, uri, attributes, width, height, *purge = row
    return State(
        item_id,
        Stamp(milliseconds, count, writer),
        bool(deleted),
        sha256,
        uri,
        json.loads(attributes),
        width,
        height,
        None if purge[0] is None else Stamp(*purge),
    )
