"""Writes the journal: one immutable segment for every group of changes, durable before `append` returns."""

import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence

from serving.journal.clock import ClockAhead, HybridClock, Stamp
from serving.journal.entry import Change, Entry
from serving.journal.segment import size_of, to_bytes
from serving.release import layout
from serving.storage import Store

_logger = logging.getLogger(__name__)

# A larger group is split: whoever reads a segment holds all of it.
SEGMENT_BYTES = 64 * 2**20


class JournalWriter:
    """The segments of one process: seq 1, 2, 3 ... without gaps. Every method may be called from any thread."""

    def __init__(self, store: Store, writer_id: str = "", *, clock: HybridClock | None = None) -> None:
        """writer_id: 32 hex digits that nobody else writes under; a new one where it is empty."""
        self.writer_id = layout.check_writer_id(writer_id or uuid.uuid4().hex)
        self._store = store
        self._clock = clock or HybridClock(self.writer_id)
        self._lock = threading.Lock()
        self._seq = _last_seq(store, self.writer_id) if writer_id else 0
        self._ahead: dict[str, Stamp] = {}

    def append(self, changes: Sequence[Change]) -> list[Entry]:
        """Returns the changes with their stamps, in that order; they are durable.

        A group above SEGMENT_BYTES becomes more than one segment: where it raises, the first of them may be there.

        Raises:
          ClockAhead: a later stamp than ours can be is already on one of these items: the change would not count.
          OSError: the store can't be written now. The changes may be durable or not; they may be appended again.
          ValueError: an image is not what its sha256 says; nothing was written.
        """
        with self._lock:
            self._check_ahead(changes)
            entries = [Entry(self._clock.now(), change) for change in changes]
            # All of them before the first is written, so that a wrong image leaves nothing behind.
            for segment in [to_bytes(group) for group in _groups(entries)]:
                self._write(segment)
            return entries

    def observe(self, entries: Iterable[Entry]) -> None:
        """Takes note of others' entries: what is appended from now on is later than these.

        One from too far in the future is not followed; until that time has come, `append` refuses its item.
        """
        for entry in entries:
            self.observe_stamp(entry.change.item_id, entry.stamp)

    def observe_stamp(self, item_id: str, stamp: Stamp) -> None:
        """Takes note of the stamp of an item, as `observe` does; for those that a release's state holds."""
        try:
            self._clock.observe(stamp)
        except ClockAhead as error:
            _logger.error("%s: %s Changes of %r are refused until then", self._store.uri, error, item_id)
            with self._lock:
                self._ahead[item_id] = max(stamp, self._ahead.get(item_id, stamp))

    def _check_ahead(self, changes: Sequence[Change]) -> None:
        for change in changes if self._ahead else ():
            stamp = self._ahead.get(change.item_id)
            if stamp is not None:
                self._clock.observe(stamp)  # raises for as long as it is ahead
                del self._ahead[change.item_id]

    def _write(self, segment: bytes) -> None:
        while True:
            path = layout.segment_file(self.writer_id, self._seq + 1)
            try:
                self._store.create(path, segment)
            except FileExistsError:
                # An append that raised was written all the same; where it is this one, repeated, it is done.
                if self._store.read(path) != segment:
                    self._seq += 1
                    continue
            self._seq += 1
            return


def _last_seq(store: Store, writer_id: str) -> int:
    names = [stat.path for stat in store.files(layout.writer_folder(writer_id))]
    return max((found[1] for name in names if (found := layout.parse_segment(name))), default=0)


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        weight = size_of(entry.change)
        if group and size + weight > SEGMENT_BYTES:
            yield group
            group, size = [], 0
        group.append(entry)
        size += weight
    if group:
        yield group
