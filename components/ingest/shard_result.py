"""What became of one shard of a collection, as the workers that write shards report it."""

import dataclasses

SPLITS = ("train", "eval")


@dataclasses.dataclass
class ShardResult:
    """What became of one shard. items, bytes: by split. skipped, ignored: counts by reason, of the files that claim to
    be images and of the others. duplicates: at most 10 of (item id, uri, uri). fingerprint, listing: the state of a
    SetDigest, of what was written and of what was listed. kept: items of the base release that were not read,
    `reworded` of them with other attributes. changed: of those that were read, how many it holds in another version.
    upserts, tombstones: of the updates. deleted: items of the base release that have a tombstone.
    """

    items: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    bytes: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    claimed: int = 0
    labelled: int = 0
    updated: int = 0
    kept: int = 0
    reworded: int = 0
    changed: int = 0
    upserts: int = 0
    tombstones: int = 0
    deleted: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    duplicates: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    fingerprint: str = "0:0"
    listing: str = "0:0"
    spans: list[int] = dataclasses.field(default_factory=list)
