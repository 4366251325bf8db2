"""Makes the overlay of one release out of the journal's entries, in whatever order they come."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from serving.images import ImageError, thumbnail
from serving.index import Embeddings
from serving.journal.clock import Stamp
from serving.journal.entry import Entry, Tombstone, Upsert
from serving.release.items import Item
from serving.search.merged import Merged
from serving.search.overlay import Overlay
from serving.search.overlay_rows import OverlayRows
from serving.search.searcher import Searcher

T = TypeVar("T")
_log = logging.getLogger(__name__)
# Rows of items that are gone are left behind when they are more than the others, and worth the copying.
_DEAD_ROWS = 1024


class OverlayBuilder(Generic[T]):
    """Everything beyond a release's watermark that is later than what the release holds of an item.

    An item that was changed at all is hidden in the release, for good; of its changes the latest counts. May be used by
    any number of threads until the release is closed.
    """

    def __init__(self, searcher: Searcher[T], render: Callable[[Item], T]) -> None:
        """render: makes of an item what answers hold."""
        self.searcher = searcher
        self._release = searcher.release
        self._render = render
        self._lock = threading.Lock()
        self._rows: OverlayRows[T] = OverlayRows(self._release.manifest.encoder.dimension)
        self._live = np.zeros(0, np.bool_)
        self._hidden = np.empty(0, np.int64)
        self._stamps: dict[str, Stamp] = {}
        # The upserts that count and that this encoder has not seen: neither searched nor lost.
        self._missing: set[str] = set()
        self._count = 0

    @property
    def count(self) -> int:
        """How many upserted items are searched."""
        return self._count

    @property
    def hidden(self) -> int:
        """How many items of the release are hidden."""
        return len(self._hidden)

    @property
    def missing(self) -> int:
        """How many upserted items can't be searched, because this release's encoder has not embedded them."""
        return len(self._missing)

    def stamp(self, item_id: str) -> Stamp | None:
        """Returns the stamp of an item's latest change, also where the release holds it; None where there is none."""
        with self._lock:
            return self._known(item_id)

    def add(self, entries: Iterable[Entry]) -> list[Entry]:
        """Takes in entries; returns those upserts that count and must be embedded first, for `embed`."""
        digest = self._release.manifest.encoder.digest
        with self._lock:
            latest: dict[str, Entry] = {}
            for entry in sorted(entries, key=lambda entry: entry.stamp):
                # Where only some shards are loaded, the others' items are searched by somebody else.
                if not self._release.owns(entry.change.item_id):
                    continue
                known = self._known(entry.change.item_id)
                if known is None or entry.stamp > known:
                    latest[entry.change.item_id] = entry
            upserts = [(entry, entry.change) for entry in latest.values() if isinstance(entry.change, Upsert)]
            self._stamps.update((item_id, entry.stamp) for item_id, entry in latest.items())
            self._missing.difference_update(latest)
            self._missing.update(change.item_id for _, change in upserts)
            ready, missing = [], []
            for entry, change in upserts:
                if change.embedding is not None and change.encoder_digest == digest:
                    ready += self._rows_of(change, change.embedding)
                else:
                    missing.append(entry)
            if latest:
                self._change(list(latest), ready)
            if any(isinstance(entry.change, Tombstone) and entry.change.purge for entry in latest.values()):
                # Its thumbnail must not stay in memory either.
                self._compact()
            return missing

    def embed(self, entries: Sequence[Entry], embeddings: Mapping[int, Embeddings]) -> None:
        """Takes in embeddings, float32 `[D]`, of entries that `add` returned, by their places.

        An entry that has been changed since no longer counts.
        """
        with self._lock:
            ready = []
            for place, embedding in embeddings.items():
                entry = entries[place]
                change = entry.change
                if isinstance(change, Upsert) and self._stamps.get(change.item_id) == entry.stamp:
                    ready += self._rows_of(change, embedding)
            if ready:
                self._change([item.item_id for item, _, _ in ready], ready)

    def wants(self, entry: Entry) -> bool:
        """Returns whether an entry counts and must be embedded first."""
        with self._lock:
            item_id = entry.change.item_id
            return item_id in self._missing and self._stamps[item_id] == entry.stamp

    def _known(self, item_id: str) -> Stamp | None:
        known = self._stamps.get(item_id)
        if known is None:
            state = self._release.updates.get(item_id)
            known = None if state is None else state.stamp
        return known

    def _rows_of(self, change: Upsert, embedding: Embeddings) -> list[tuple[Item, bytes, Embeddings]]:
        """Returns the row of an upsert, or none where the encoder's embedding can't be searched."""
        try:
            unit = self._release.unit(embedding)
        except ValueError as error:
            _log.error("upserted item %r can't be searched: its embedding is none: %s", change.item_id, error)
            return []
        self._missing.discard(change.item_id)
        item = Item(change.item_id, change.uri, change.sha256, change.width, change.height, dict(change.attributes))
        return [(item, _thumbnail(change.image), unit)]

    def _change(self, item_ids: Sequence[str], ready: Sequence[tuple[Item, bytes, Embeddings]]) -> None:
        """Puts `ready` in the place of whatever there was of some items, and shows the outcome in one assignment."""
        live = self._live.copy()
        for item_id in item_ids:
            live[self._rows.rows_of.get(item_id, [])] = False
        for item, small, embedding in ready:
            self._rows.add(item, small, embedding, self._render(item))
        self._live = np.concatenate([live, np.ones(len(ready), np.bool_)])
        self._count = int(np.count_nonzero(self._live))
        rows = np.fromiter(self._release.rows_of(item_ids).values(), np.int64)
        self._hidden = np.union1d(self._hidden, rows)
        if len(self._live) > max(_DEAD_ROWS, 2 * self._count):
            self._compact()
        else:
            self._show()

    def _show(self) -> None:
        overlay = Overlay(self._rows, self._live, self._hidden)
        self.searcher.show(None if overlay.empty else Merged(self.searcher, overlay))

    def _compact(self) -> None:
        rows: OverlayRows[T] = OverlayRows(self._release.manifest.encoder.dimension)
        embeddings = self._rows.embeddings(len(self._live))
        for row in np.flatnonzero(self._live).tolist():
            old = self._rows
            rows.add(old.items[row], old.thumbnails[row], embeddings[row], old.rendered[row])
        self._rows = rows
        self._live = np.ones(len(rows), np.bool_)
        self._show()


def _thumbnail(image: bytes) -> bytes:
    try:
        return thumbnail(image)
    except ImageError:
        # It was canonical when it was taken; what can't be shown can still be found.
        return b""
