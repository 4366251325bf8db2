"""Which of the entries of a shard count."""

import operator
from collections.abc import Iterable
from typing import NamedTuple

from components.ingest.listing import Entry
from components.ingest.set_digest import SetDigest
from components.ingest.shard_result import ShardResult
from components.ingest.updates import TOMBSTONE, UPSERT

_MOST_DUPLICATES = 10
_ORDER = operator.attrgetter("item_id", "span", "uri", "place")


class Chosen(NamedTuple):
    """entries: to be read, or to be skipped with their reason. deleted: the ids that have a tombstone."""

    entries: list[Entry]
    deleted: list[str]


def add_to_listing(digest: SetDigest, entry: Entry) -> None:
    """Adds `entry` to the digest of a listing, if it may become an item: other files may come and go."""
    if entry.reason is None or entry.is_claim:
        digest.add(entry.item_id, entry.uri, entry.size, entry.version, entry.place, entry.reason)


def choose(entries: Iterable[Entry], result: ShardResult, *, digest_listing: bool = True) -> Chosen:
    """Returns the entries that count, by id: of several spans the latest, and over all of them what was updated.

    That is an upsert, or nothing where the item was deleted. Duplicate ids in a span go to `result`, and the digest of
    what was listed where anybody wants it.
    """
    by_id: dict[str, Entry] = {}
    updates: list[Entry] = []
    others = []
    spans, listing = set(), SetDigest()
    for entry in sorted(entries, key=_ORDER):
        if entry.update:
            updates.append(entry)
            continue
        if digest_listing:
            add_to_listing(listing, entry)
        if entry.reason is not None and (not entry.is_claim or entry.reason == "bad-name"):
            others.append(entry)
            continue
        spans.add(entry.span)
        before = by_id.get(entry.item_id)
        if before is not None and before.span == entry.span:
            if len(result.duplicates) < _MOST_DUPLICATES:
                result.duplicates.append((entry.item_id, before.uri, entry.uri))
            continue
        result.updated += before is not None
        by_id[entry.item_id] = entry
    for entry in updates:
        by_id.pop(entry.item_id, None)
        if entry.update == UPSERT:
            by_id[entry.item_id] = entry
    result.upserts = sum(entry.update == UPSERT for entry in updates)
    result.tombstones = len(updates) - result.upserts
    result.spans, result.listing = sorted(spans), listing.state
    deleted = [entry.item_id for entry in updates if entry.update == TOMBSTONE]
    return Chosen([*by_id.values(), *others], deleted)
