"""The report of an ingest: what was read, what was skipped and why, and whether that is acceptable."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from components.artifact_files import stored
from components.ingest.listing import MAX_LEVELS, Source
from components.ingest.set_digest import SetDigest
from components.ingest.shards import SPLITS, IngestOptions, ShardResult, skipped_file
from components.reindex.base import Base
from serving.storage import Store

REPORT = "report.json"
SKIPPED = "skipped.jsonl"
FORMAT_VERSION = 1
_MOST_LISTED = 100
_MOST_NAMED = 5


class IngestError(ValueError):
    """A collection that must not be used; the message says why and what to do."""


class RemovalRefused(IngestError):
    """So much of a collection is gone that it looks like an accident."""


def merge(results: Iterable[ShardResult]) -> ShardResult:
    """Returns the sum of what became of the shards."""
    total, fingerprint, listing, spans = ShardResult(), SetDigest(), SetDigest(), set[int]()
    for result in results:
        for field in ("items", "bytes", "skipped", "ignored"):
            counts = getattr(total, field)
            for key, count in getattr(result, field).items():
                counts[key] = counts.get(key, 0) + count
        total.claimed += result.claimed
        total.labelled += result.labelled
        total.updated += result.updated
        total.kept += result.kept
        total.reworded += result.reworded
        total.changed += result.changed
        total.upserts += result.upserts
        total.tombstones += result.tombstones
        total.deleted += result.deleted
        total.duplicates += result.duplicates
        spans |= set(result.spans)
        fingerprint.merge(result.fingerprint)
        listing.merge(result.listing)
    total.spans, total.fingerprint, total.listing = sorted(spans), fingerprint.state, listing.state
    return total


def merge_skipped(store: Store, shards: int) -> list[dict[str, Any]]:
    """Joins the shards' lists of skipped files into `skipped.jsonl`, line by line; returns the first hundred.

    Files that claim to be images come first.
    """
    listed: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    with stored(store, SKIPPED) as path, path.open("wb") as merged:
        for shard in range(shards):
            data = store.read(skipped_file(shard))
            merged.write(data)
            for line in data.splitlines():
                if len(listed) == _MOST_LISTED:
                    break
                value = json.loads(line)
                kept = listed if value["claimed_to_be_an_image"] else others
                if len(kept) < _MOST_LISTED:
                    kept.append(value)
    store.delete("skipped")
    return (listed + others)[:_MOST_LISTED]


def build_report(
    source: Source,
    options: IngestOptions,
    total: ShardResult,
    *,
    listed: list[dict[str, Any]],
    reused_split: str | None,
    base: Base | None = None,
) -> dict[str, Any]:
    """Returns `report.json`. reused_split: the split that had no items and is a copy of the other, or None.

    base: the release of a reindex; the report then has `reindex`, the collection beside it, and no `listing_digest`.
    """
    return {
        "format_version": FORMAT_VERSION,
        "images": source.uri,
        "kind": source.kind,
        "options": json.loads(options.to_json()),
        "spans": total.spans if options.span_pattern else [],
        "items": sum(total.items.values()),
        "claimed": total.claimed,
        "labelled": total.labelled,
        "updated_by_later_spans": total.updated,
        "splits": {split: {"items": total.items[split], "bytes": total.bytes[split]} for split in SPLITS},
        "reused_split": reused_split,
        "skipped": _counted(total.skipped),
        "skipped_share": _share(total),
        "ignored": _counted(total.ignored),
        "listed": listed,
        "all_listed_in": SKIPPED,
        "listing_digest": None if base else _hexdigest(total.listing),
        "data_fingerprint": _hexdigest(total.fingerprint),
        "upserts": total.upserts,
        "tombstones": total.tombstones,
        "reindex": None if base is None else _compared(base, total),
    }


def _compared(base: Base, total: ShardResult) -> dict[str, Any]:
    """Returns the collection beside its base: counts of items, and the release."""
    items = sum(total.items.values())
    read = items - total.kept
    gone = base.count - total.kept - total.changed
    return {
        "base": base.release_id,
        "base_items": base.count,
        "same_encoder": base.holds_embeddings,
        "listed": total.claimed,
        "unchanged": total.kept,
        "reworded": total.reworded,
        "read": read,
        "changed": total.changed,
        "new": read - total.changed,
        # What was deleted by a tombstone is meant; what is gone from the images may be an accident.
        "removed": gone - total.deleted,
        "deleted": total.deleted,
    }


def is_unchanged(compared: dict[str, Any]) -> bool:
    """Returns whether a collection is what its base holds. compared: the report's `reindex`."""
    return compared["same_encoder"] and not any(compared[name] for name in ("reworded", "read", "removed", "deleted"))


def check_removed(source: Source, compared: dict[str, Any], max_removed_share: float) -> None:
    """Raises RemovalRefused where more of the base's items than this share, in [0, 1], are gone."""
    removed, before = compared["removed"], compared["base_items"]
    if removed > max_removed_share * before:
        raise RemovalRefused(
            f"{removed} of the {before} items of release {compared['base']} are gone from {source.images} "
            f"({removed / before:.0%}; at most {max_removed_share:.0%} may go at once). Is everything mounted? "
            "Where it is meant, allow more: --allow-removal 1."
        )


def check(source: Source, options: IngestOptions, total: ShardResult, listed: list[dict[str, Any]]) -> None:
    """Raises IngestError where the collection must not be used."""
    if total.duplicates:
        named = "; ".join(
            f"{item_id!r}: {first} and {second}" for item_id, first, second in total.duplicates[:_MOST_NAMED]
        )
        raise IngestError(
            f"{source.images}: every item needs an id of its own. Duplicate are {named}. Rename or drop one."
        )
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted((total.skipped | total.ignored).items()))
    examples = "".join(f"\n  {value['uri']}: {value['reason']}: {value['message']}" for value in listed[:_MOST_NAMED])
    if not sum(total.items.values()):
        if not total.skipped and not total.ignored:
            raise IngestError(
                f"{source.images} is empty. Put images into it (JPEG, PNG, WebP, GIF, BMP or TIFF, in folders at most "
                f"{MAX_LEVELS - 1} deep), or name another folder, archive or manifest."
            )
        raise IngestError(
            f"{source.images} holds no image that can be used ({reasons}). "
            f"Accepted are {', '.join(options.limits.formats)}. Skipped were, among others:{examples}"
        )
    skipped = sum(total.skipped.values())
    if _share(total) > options.max_skipped_share + 1e-12:
        raise IngestError(
            f"{skipped} of {total.claimed} images in {source.images} can't be used ({_share(total):.2%}; at most "
            f"{options.max_skipped_share:.2%} may be skipped; {reasons}). Mend or remove them, or allow more by "
            f"max_skipped_share. Skipped were, among others:{examples}"
        )


def result_to_json(result: ShardResult) -> str:
    """Returns a shard's result as JSON."""
    return json.dumps(dataclasses.asdict(result), sort_keys=True)


def result_from_json(text: str) -> ShardResult:
    """Returns the shard's result in `text`."""
    value = json.loads(text)
    value["duplicates"] = [(item_id, first, second) for item_id, first, second in value["duplicates"]]
    return ShardResult(**value)


def _hexdigest(state: str) -> str:
    digest = SetDigest()
    digest.merge(state)
    return digest.hexdigest()


def _share(total: ShardResult) -> float:
    return sum(total.skipped.values()) / total.claimed if total.claimed else 0.0


def _counted(counts: dict[str, int]) -> dict[str, Any]:
    return {"total": sum(counts.values()), "by_reason": dict(sorted(counts.items()))}
