"""Which contents the items of some releases have: what is cached of any other is of no use to them."""

import contextlib
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from serving.release import layout
from serving.release.items import ItemShard
from serving.release.manifest import Manifest
from serving.release.verify import ReleaseRefused
from serving.storage import Store

_BATCH = 1000


class LiveContents:
    """A set of sha256s that lies on disk, so that memory is not bounded by the collection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, sha256s: Iterable[str]) -> None:
        """Takes in sha256s, in hex."""
        rows = ((bytes.fromhex(sha256),) for sha256 in sha256s)
        self._connection.executemany("INSERT OR IGNORE INTO live VALUES (?)", rows)

    def holds(self, keys: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Returns bool `[n]`: whether the set holds each of `keys`, 32 bytes each."""
        found: set[bytes] = set()
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            found.update(
                row[0] for row in self._connection.execute(f"SELECT key FROM live WHERE key IN ({marks})", batch)
            )
        return np.fromiter((key in found for key in keys), np.bool_, len(keys))


@contextlib.contextmanager
def live_contents(store: Store, manifests: Sequence[Manifest]) -> Iterator[LiveContents]:
    """Yields the contents of all items of some releases; raises ReleaseRefused where they can't be read."""
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-contents-") as folder,
        contextlib.closing(sqlite3.connect(pathlib.Path(folder, "live.sqlite"))) as connection,
    ):
        connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE live (key BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;"
        )
        live = LiveContents(connection)
        for manifest in manifests:
            for shard in opened_items(store, manifest):
                live.add(_sha256s(shard))
        yield live


def opened_items(store: Store, manifest: Manifest) -> Iterator[ItemShard]:
    """Yields the items of each shard of a release in turn, closed when the next is asked for.

    Raises ReleaseRefused where one is missing or damaged.
    """
    base = layout.release_folder(manifest.release_id)
    for shard in manifest.index.shards:
        with tempfile.TemporaryDirectory(prefix="lookalike-items-") as folder:
            file = store.local_path(f"{base}/{shard.items}")
            try:
                if file is None:
                    file = pathlib.Path(folder, "items.sqlite")
                    store.download(f"{base}/{shard.items}", file)
                with contextlib.closing(ItemShard(file)) as items:
                    yield items
            except (FileNotFoundError, sqlite3.DatabaseError) as error:
                raise ReleaseRefused(f"{shard.items} of {manifest.release_id}: {error}", fault="items") from error


def _sha256s(shard: ItemShard) -> Iterator[str]:
    for start in range(0, shard.count, _BATCH):
        yield from (item.sha256 for item in shard.by_row(range(start, min(start + _BATCH, shard.count))))
