"""Reads the journal: what is new since last time, or everything beyond a release's watermark."""

import logging
from collections.abc import Iterator, Mapping

from serving.journal.entry import Entry
from serving.journal.segment import SegmentDamaged, from_bytes
from serving.release import layout
from serving.storage import Store

_logger = logging.getLogger(__name__)


def heads(store: Store) -> dict[str, int]:
    """Returns the newest seq of every writer that has segments."""
    return {writer: seqs[-1] for writer, seqs in segments(store).items()}


def segments(store: Store) -> dict[str, list[int]]:
    """Returns the seqs of every writer that has segments, ascending."""
    found: dict[str, list[int]] = {}
    for stat in store.files(layout.JOURNAL):
        place = layout.parse_segment(stat.path)
        if place:
            found.setdefault(place[0], []).append(place[1])
    return found


def read_segment(store: Store, writer: str, seq: int) -> list[Entry]:
    """Returns the entries of one segment.

    Raises:
      FileNotFoundError: it isn't there.
      SegmentDamaged: names the file, and what is wrong with it.
    """
    path = layout.segment_file(writer, seq)
    data = store.read(path)
    try:
        entries = from_bytes(data)
        others = {entry.stamp.writer for entry in entries} - {writer}
        if others:
            raise SegmentDamaged(f"it holds changes of writer {', '.join(sorted(others))}.")
    except SegmentDamaged as error:
        raise SegmentDamaged(f"{store.uri}/{path} is damaged: {error}") from error
    return entries


def read_from(store: Store, watermark: Mapping[str, int]) -> Iterator[Entry]:
    """Yields every entry beyond a watermark, a segment in memory at a time; see JournalReader for damaged ones."""
    reader = JournalReader(store, watermark)
    for _, _, entries in reader.read():
        yield from entries


class JournalReader:
    """Follows the journal of a store, from a watermark on. For one thread at a time.

    Segments of a writer are read in the order of their seqs, without a gap. A damaged one is never skipped: what it
    held was acknowledged. It is logged, named in `damaged` and tried again at every poll; until it is well again the
    later segments of its writer wait, and those of all others are read.
    """

    def __init__(self, store: Store, watermark: Mapping[str, int]) -> None:
        """watermark: of each writer the last seq that need not be read."""
        self._store = store
        self.heads: dict[str, int] = dict(watermark)
        self.damaged: dict[str, str] = {}
        self._unreported: list[Entry] = []

    def poll(self) -> list[Entry]:
        """Returns what is new since the last poll, in the order of stamps; raises OSError where it can't be read."""
        for _, _, entries in self.read():
            # Kept where the next segment can't be read: this one is not read again.
            self._unreported.extend(entries)
        found, self._unreported = self._unreported, []
        return sorted(found, key=lambda entry: entry.stamp)

    def read(self) -> Iterator[tuple[str, int, list[Entry]]]:
        """Yields writer, seq and entries of each new segment; `heads` says how far it has come."""
        for writer in self._store.folders(layout.JOURNAL):
            if not layout.is_writer_id(writer):
                continue
            seq = self.heads[writer] + 1 if writer in self.heads else self._first(writer)
            while entries := self._next(writer, seq):
                self.heads[writer] = seq
                yield writer, seq, entries[0]
                seq += 1

    def _next(self, writer: str, seq: int) -> tuple[list[Entry]] | None:
        try:
            entries = read_segment(self._store, writer, seq)
        except FileNotFoundError:
            return None
        except SegmentDamaged as error:
            if self.damaged.get(writer) != str(error):
                _logger.error("%s Nothing later of this writer is read until it is restored", error)
            self.damaged[writer] = str(error)
            return None
        if self.damaged.pop(writer, None):
            _logger.warning("%s is well again", layout.segment_file(writer, seq))
        return (entries,)

    def _first(self, writer: str) -> int:
        """Returns the seq at which to begin with a writer that the watermark doesn't name.

        Not always 1: of a writer whose segments every release has passed, watermark and segments are pruned.
        """
        if self._store.exists(layout.segment_file(writer, 1)):
            return 1
        seq = min(segments(self._store).get(writer, [1]))
        # A listing may miss what was written while it was made, but not what was there before.
        while seq > 1 and self._store.exists(layout.segment_file(writer, seq - 1)):
            seq -= 1
        return seq
