"""Erases the bytes of items whose delete asked for it: from old releases, the journal, contents and caches."""

import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from serving.journal.clock import Stamp
from serving.journal.entry import Tombstone, Upsert
from serving.journal.reader import read_from
from serving.journal.state import State
from serving.release.current import read_current
from serving.release.debris import clean_debris
from serving.release.erasure import erase, is_due
from serving.release.lease import hold_lease
from serving.release.live_contents import opened_items
from serving.release.manifest import Manifest
from serving.release.purge_record import PurgeRecord, delete_record, read_records, write_record
from serving.release.reader import read_manifest
from serving.release.retention import list_releases
from serving.release.updates import opened_updates
from serving.storage import Store

_logger = logging.getLogger(__name__)

AWAITS_RELEASE = "the served release holds it: the next reindex publishes one without it"
AWAITS_PURGE = "the served release is without it: `lookalike releases purge` erases what is left"


@dataclasses.dataclass(frozen=True)
class Pending:
    """An item whose bytes are still to be erased. asked: seconds since the epoch. waits: for what."""

    item_id: str
    asked: float
    waits: str


@dataclasses.dataclass(frozen=True)
class Purges:
    """pending: sorted by item id. done: the records of what was erased, oldest first."""

    pending: tuple[Pending, ...]
    done: tuple[PurgeRecord, ...]


def list_purges(store: Store) -> Purges:
    """Returns what was asked to be erased, and is not yet or is.

    Raises ReleaseRefused where the current release, and ValueError where a record, can't be read.
    """
    records = read_records(store)
    folded, waiting = _requests(store)
    done = _done(records)
    reasons = {name: record.waits or AWAITS_PURGE for record in records if record.done is None for name in record.items}
    reasons.update(dict.fromkeys(waiting, AWAITS_RELEASE))
    asked = {**folded, **waiting}
    held = {name for _, names in _holding(store, asked) for name in names}
    pending = [
        Pending(name, stamp.milliseconds / 1000, reasons.get(name, AWAITS_PURGE))
        for name, stamp in sorted(asked.items())
        if name in held or stamp > done.get(name, _NEVER)
    ]
    return Purges(tuple(pending), tuple(record for record in records if record.done is not None))


def purge(
    store: Store, *, holder: str, wait_seconds: float = 0.0, clock: Callable[[], float] = time.time
) -> PurgeRecord | None:
    """Erases what can be erased now; returns the record of it, or None where there was nothing to erase.

    Of an item that was deleted so, everything from before is erased, also where it was upserted again since. As soon as
    the current release is without it, other releases that hold it are deleted: nobody can roll back to them any more.
    Segments of the journal keep only that the item was deleted. An image that another item still has stays. It may be
    killed at any time and run again.

    Raises:
      LeaseHeld, LeaseLost: another changes the serving root.
      ReleaseRefused: the current release can't be read. ValueError: a record of a purge can't.
    """
    with hold_lease(store, holder, wait_seconds=wait_seconds, clock=clock) as lease:
        clean_debris(store, clock())
        records = read_records(store)
        folded, _ = _requests(store)
        begun = [record for record in records if record.done is None]
        holding = _holding(store, folded)
        due = {name: stamp for name, stamp in folded.items() if stamp > _done(records).get(name, _NEVER)}
        # A run that began before the delete may have published since the purge was done.
        due.update((name, folded[name]) for _, names in holding for name in names)
        if not due:
            return None
        stamp = datetime.datetime.fromtimestamp(clock(), datetime.timezone.utc)
        sha256s = {sha256 for record in begun for sha256 in record.sha256s}
        sha256s |= _sha256s(store, holding) | _segment_contents(store, due)
        record = PurgeRecord(f"{stamp:%Y%m%dT%H%M%SZ}-{lease.number}", due, sha256s=tuple(sorted(sha256s)))
        # Written before anything is erased: afterwards nobody could tell which images they were.
        write_record(store, record)
        for old in begun:
            delete_record(store, old)
        record = erase(store, record, [manifest for manifest, _ in holding], lease, clock)
        write_record(store, record)
    _logger.info("%s: purge %s of %d items: %s", store.uri, record.purge_id, len(due), record.waits or "done")
    return record


_NEVER = Stamp(-1, 0, "")


def _requests(store: Store) -> tuple[dict[str, Stamp], dict[str, Stamp]]:
    """Returns the items to purge and when it was asked: those the current release knows of, and those it doesn't."""
    current = read_current(store)
    if current is None:
        return {}, {}
    manifest = read_manifest(store, current)
    with opened_updates(store, manifest) as updates:
        folded = {item.item_id: item.purged for item in updates.purges() if item.purged is not None}
    waiting: dict[str, Stamp] = {}
    for entry in read_from(store, manifest.watermark):
        name = entry.change.item_id
        if isinstance(entry.change, Tombstone) and entry.change.purge and entry.stamp > folded.get(name, _NEVER):
            waiting[name] = max(entry.stamp, waiting.get(name, _NEVER))
    return folded, waiting


def _done(records: Sequence[PurgeRecord]) -> dict[str, Stamp]:
    done: dict[str, Stamp] = {}
    for record in records:
        for name, stamp in record.items.items() if record.done is not None else ():
            done[name] = max(stamp, done.get(name, _NEVER))
    return done


def _holding(store: Store, requests: Mapping[str, Stamp]) -> list[tuple[Manifest, list[str]]]:
    """Returns the releases that hold what is to be purged, each with the ids of these items."""
    found = []
    for listed in list_releases(store) if requests else ():
        if listed.manifest is None:
            continue
        with opened_updates(store, listed.manifest) as updates:
            asked = [name for name, stamp in requests.items() if not _without(updates.get(name), stamp)]
        held = [name for shard in opened_items(store, listed.manifest) for name in shard.rows_of(asked)]
        if held:
            found.append((listed.manifest, sorted(held)))
    return found


def _without(state: State | None, stamp: Stamp) -> bool:
    """Returns whether a release whose updates say this was built after the delete; what it holds is a later upsert."""
    return state is not None and state.purged is not None and state.purged >= stamp and not state.deleted


def _sha256s(store: Store, holding: Sequence[tuple[Manifest, list[str]]]) -> set[str]:
    found: set[str] = set()
    for manifest, names in holding:
        for shard in opened_items(store, manifest):
            rows = sorted(shard.rows_of(names).values())
            found.update(item.sha256 for item in shard.by_row(rows))
    return found


def _segment_contents(store: Store, due: Mapping[str, Stamp]) -> set[str]:
    found: set[str] = set()
    for entry in read_from(store, {}):
        if is_due(entry, due) and isinstance(entry.change, Upsert):
            found.add(entry.change.sha256)
    return found
