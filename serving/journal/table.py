"""The SQLite table that updates are kept in: one row an item, its latest change."""

import contextlib
import json
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator

from serving.journal.entry import Entry, Upsert

_NEWER = "(excluded.milliseconds, excluded.count, excluded.writer) > (milliseconds, count, writer)"
_STATE_COLUMNS = (
    "item_id, milliseconds, count, writer, deleted, sha256, uri, attributes, width, height, "
    "purge_milliseconds, purge_count, purge_writer"
)
# STRICT, so that a column holds what it says. An item that is deleted has nothing but its stamp.
_STATE = """
  item_id TEXT NOT NULL PRIMARY KEY, milliseconds INTEGER NOT NULL, count INTEGER NOT NULL, writer TEXT NOT NULL,
  deleted INTEGER NOT NULL, sha256 TEXT NOT NULL, uri TEXT NOT NULL, attributes TEXT NOT NULL,
  width INTEGER NOT NULL, height INTEGER NOT NULL,
  purge_milliseconds INTEGER, purge_count INTEGER, purge_writer TEXT
"""
STATE_SCHEMA = f"CREATE TABLE updates ({_STATE}) STRICT, WITHOUT ROWID;"
# seq: the segment that holds the change; NULL where it is known from the base.
_WORK_SCHEMA = f"CREATE TABLE work ({_STATE}, seq INTEGER) STRICT, WITHOUT ROWID;"
# Nobody reads it before it is whole, and who writes it starts over after a crash.
_FAST = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
_MERGE = f"""
INSERT INTO work VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, ?)
ON CONFLICT (item_id) DO UPDATE SET
  milliseconds = excluded.milliseconds, count = excluded.count, writer = excluded.writer, deleted = excluded.deleted,
  sha256 = excluded.sha256, uri = excluded.uri, attributes = excluded.attributes, width = excluded.width,
  height = excluded.height, seq = excluded.seq
WHERE {_NEWER}
"""
_MERGE_PURGE = """
UPDATE work SET purge_milliseconds = ?1, purge_count = ?2, purge_writer = ?3
WHERE item_id = ?4
  AND (purge_milliseconds IS NULL OR (?1, ?2, ?3) > (purge_milliseconds, purge_count, purge_writer))
"""


class Merge:
    """A working file in which entries, in any order, become one row an item. For one thread."""

    def __init__(self, path: pathlib.Path, base: pathlib.Path | None) -> None:
        """path: a new file. base: the state to begin with, or None."""
        self._connection = sqlite3.connect(path)
        self._connection.executescript(_FAST + _WORK_SCHEMA)
        if base is not None:
            self._connection.execute("ATTACH ? AS base", (str(base),))
            self._connection.execute(f"INSERT INTO work SELECT {_STATE_COLUMNS}, NULL FROM base.updates")
            self._connection.commit()

    def add(self, seq: int, entries: Iterable[Entry]) -> None:
        """Takes in the entries of a segment."""
        for stamp, change in ((entry.stamp, entry.change) for entry in entries):
            if isinstance(change, Upsert):
                attributes = json.dumps(dict(change.attributes), sort_keys=True, separators=(",", ":"))
                said = 0, change.sha256, change.uri, attributes, change.width, change.height
            else:
                said = 1, "", "", "{}", 0, 0
            self._connection.execute(_MERGE, (change.item_id, *stamp, *said, seq))
            if not isinstance(change, Upsert) and change.purge:
                self._connection.execute(_MERGE_PURGE, (*stamp, change.item_id))
        self._connection.commit()

    def new_contents(self) -> Iterator[tuple[str, int, set[str]]]:
        """Yields writer, seq and the sha256s of the live upserts of each segment that holds any."""
        query = """
        SELECT writer, seq, group_concat(sha256) FROM work WHERE NOT deleted AND seq IS NOT NULL
        GROUP BY writer, seq ORDER BY writer, seq
        """
        for writer, seq, sha256s in self._connection.execute(query):
            yield writer, seq, set(sha256s.split(","))

    def write(self, path: pathlib.Path) -> None:
        """Writes the state into a new file: the same rows give the same bytes."""
        path.touch(exist_ok=False)
        with contextlib.closing(sqlite3.connect(path)) as state:
            state.executescript(_FAST + STATE_SCHEMA)
            rows = self._connection.execute(f"SELECT {_STATE_COLUMNS} FROM work ORDER BY item_id")
            state.executemany(f"INSERT INTO updates VALUES ({','.join('?' * 13)})", rows)
            state.commit()

    def close(self) -> None:
        """Closes the working file."""
        self._connection.close()
