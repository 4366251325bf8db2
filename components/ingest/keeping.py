"""Which entries the base release of a reindex holds unchanged: these are not read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from components.ingest.choice import Chosen
from components.ingest.listing import Entry
from components.ingest.notes import Kept, as_stored, attributes_differ
from components.ingest.set_digest import SetDigest
from components.ingest.shard_result import SPLITS, ShardResult
from components.reindex.base import Base, BaseItems
from serving.release.items import Attribute, Source

_LOOKED_UP_AT_ONCE = 1000


def split_of(sha256: str, eval_percent: int) -> str:
    """Returns the split of a canonical image: identical content never straddles."""
    return "eval" if int(sha256[:16], 16) % 100 < eval_percent else "train"


class Others(NamedTuple):
    """What of a shard must be read. held: the ids of those entries that the base release holds in another version."""

    entries: list[Entry]
    held: set[str]


def keep_unchanged(
    chosen: Chosen,
    base: Base,
    limits: dict[str, Any],
    eval_percent: int,
    label: Callable[[Entry], str | None],
    result: ShardResult,
    digest: SetDigest,
) -> tuple[Kept, Others]:
    """Returns what the base release holds unchanged, and the rest; counts the former in `result` and `digest`.

    limits: of images, as JSON has them. label: returns an entry's label.
    """
    others, held = [], set()
    places: list[tuple[int, int]] = []
    splits: list[str] = []
    attributes: dict[int, dict[str, Attribute]] = {}
    keeps = base.keeps(limits)
    with BaseItems(base) as items:
        for start in range(0, len(chosen.deleted), _LOOKED_UP_AT_ONCE):
            result.deleted += len(items.find(chosen.deleted[start : start + _LOOKED_UP_AT_ONCE]))
        for start in range(0, len(chosen.entries), _LOOKED_UP_AT_ONCE):
            some = chosen.entries[start : start + _LOOKED_UP_AT_ONCE]
            found = items.find([entry.item_id for entry in some])
            lines = []
            for entry in some:
                place = found.get(entry.item_id)
                if place is None:
                    others.append(entry)
                    continue
                base_shard, source = place
                if not keeps or not _is_version(entry, source):
                    others.append(entry)
                    held.add(entry.item_id)
                    continue
                said = label(entry)
                now = dict(entry.attributes) if entry.update else as_stored(entry.attributes, said)
                if (now or source.attributes) and attributes_differ(source.attributes, now):
                    attributes[len(places)] = now
                places.append((base_shard, source.row))
                splits.append(split_of(source.sha256, eval_percent))
                lines.append((entry.item_id, source.sha256, said, entry.attributes))
                result.labelled += said is not None
            digest.add_all(lines)
    for split in SPLITS:
        result.items[split] += splits.count(split)
    result.claimed += len(places)
    result.kept, result.reworded = len(places), len(attributes)
    held_out = np.asarray([split == "eval" for split in splits], bool)
    kept = Kept(np.asarray(places, np.int64).reshape(-1, 2), held_out, attributes)
    return kept, Others(others, held)


def _is_version(entry: Entry, source: Source) -> bool:
    """Returns whether an entry is what the base's item was made from; never where its version isn't known."""
    return (
        entry.reason is None
        and entry.version != ""
        and (entry.version, entry.size, entry.uri) == (source.version, source.size, source.uri)
    )
