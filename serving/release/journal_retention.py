"""What of the journal, and of the contents it brought, no kept release needs any more."""

import logging
from collections.abc import Collection, Sequence

from serving.journal.entry import Upsert
from serving.journal.reader import read_segment
from serving.journal.segment import SegmentDamaged
from serving.release import layout
from serving.release.manifest import Manifest
from serving.release.updates import opened_updates
from serving.release.verify import ReleaseRefused
from serving.storage import Store

_logger = logging.getLogger(__name__)


def passed_segments(store: Store, kept: Sequence[Manifest], bar: float) -> list[str]:
    """Returns the segments, by path, that the watermark of every kept release has passed, oldest of a writer first.

    Of a writer that a release doesn't know it has passed nothing. bar: seconds since the epoch; what is younger stays,
    for runs that began before the newest release and aren't published yet.
    """
    passed: list[str] = []
    young: set[str] = set()
    for stat in store.files(layout.JOURNAL):
        place = layout.parse_segment(stat.path)
        if place is None:
            continue
        writer, seq = place
        limit = min((manifest.watermark.get(writer, 0) for manifest in kept), default=0)
        if seq > limit or stat.modified > bar:
            young.add(writer)
        # Never one behind another that stays: a reader takes what is missing for what isn't written yet.
        if writer not in young:
            passed.append(stat.path)
    return passed


def empty_writers(store: Store) -> list[str]:
    """Returns the folders of writers that have no segment."""
    writers = {place[0] for stat in store.files(layout.JOURNAL) if (place := layout.parse_segment(stat.path))}
    names = store.folders(layout.JOURNAL)
    return [layout.writer_folder(name) for name in names if layout.is_writer_id(name) and name not in writers]


def unused_contents(
    store: Store, kept: Sequence[Manifest], bar: float, leaving_out: Collection[str] = ()
) -> list[str] | None:
    """Returns the contents, by path, that neither the updates of a kept release name nor the journal.

    None where nobody can tell, because a release or a segment can't be read. bar: as in `passed_segments`.
    leaving_out: segments that are about to be deleted.
    """
    # Listed first: a fold that comes in between writes what is named by a segment that is read below.
    names = {stat.path for stat in store.files(layout.CONTENTS) if stat.modified <= bar}
    if not names:
        return []
    try:
        for manifest in kept:
            with opened_updates(store, manifest) as updates:
                names.difference_update(layout.content_file(item.sha256) for item in updates.upserts())
        for path in [stat.path for stat in store.files(layout.JOURNAL)]:
            place = layout.parse_segment(path)
            if place is not None and path not in leaving_out:
                changes = [entry.change for entry in read_segment(store, *place)]
                names.difference_update(layout.content_file(c.sha256) for c in changes if isinstance(c, Upsert))
    except (ReleaseRefused, SegmentDamaged) as error:
        _logger.warning("no contents are deleted: nobody can tell which are needed: %s", error)
        return None
    return sorted(names)
