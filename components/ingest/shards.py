"""Makes a shard of a collection into examples: reads, makes canonical, splits and writes one image at a time."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import tensorflow as tf

from components import features
from components.artifact_files import stored
from components.ingest.archives import list_archive, read_members
from components.ingest.folders import list_folder
from components.ingest.image_manifest import list_manifest
from components.ingest.listing import Entry, ListingError, Source, open_file
from components.ingest.notes import Kept, Note, as_stored, attributes_differ, notes_file, write_kept, write_note
from components.ingest.set_digest import SetDigest
from components.reindex.base import Base, BaseItems
from serving.images import CanonicalImage, ImageError, ImageLimits, canonicalize
from serving.release.items import Attribute, Item
from serving.release.layout import shard_of
from serving.storage import Store, open_store

SPLITS = ("train", "eval")
LABELS = ("folder", "parent", "manifest")
_MOST_SHARDS = 10_000
_MOST_DUPLICATES = 10
_LISTED_AT_ONCE = 10_000
_LOOKED_UP_AT_ONCE = 1000
# Images are compressed already; the format is gzip because TFX's is.
_GZIP = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)


@dataclasses.dataclass(frozen=True)
class IngestOptions:
    """How a collection becomes examples.

    shards: files per split, later the parts of the embeddings. eval_percent: in [0, 100], of the distinct images.
    label_from: None, or `folder` (the first of the path), `parent` (the last) or `manifest` (its column `label`).
    max_skipped_share: in [0, 1], of the files that claim to be images; above it the run fails.
    """

    limits: ImageLimits = ImageLimits()  # noqa: RUF009 (frozen)
    shards: int = 8
    eval_percent: int = 10
    label_from: str | None = None
    max_skipped_share: float = 0.01
    span_pattern: str | None = None
    last_span: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= _MOST_SHARDS:
            raise ValueError(f"shards must be in [1, {_MOST_SHARDS}], got {self.shards}.")
        if not 0 <= self.eval_percent <= 100:
            raise ValueError(f"eval_percent must be in [0, 100], got {self.eval_percent}.")
        if self.label_from not in (None, *LABELS):
            raise ValueError(f"label_from must be one of {', '.join(LABELS)} or nothing, got {self.label_from!r}.")
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"max_skipped_share must be in [0, 1], got {self.max_skipped_share}.")

    def source(self, images: str) -> Source:
        """Returns the collection at `images`, read with these options."""
        source = Source(images, self.span_pattern, self.last_span)
        if self.label_from == "manifest" and source.kind != "manifest":
            raise ListingError(f"label_from is 'manifest', and {images} is one {source.kind}.")
        return source

    def to_json(self) -> str:
        """Returns JSON that is the same for the same options: TFX's cache compares it."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "IngestOptions":
        """Returns the options in `text`."""
        value = json.loads(text)
        limits = value.pop("limits")
        return cls(limits=ImageLimits(**{**limits, "formats": tuple(limits["formats"])}), **value)


@dataclasses.dataclass
class ShardResult:
    """What became of one shard. items, bytes: by split. skipped, ignored: counts by reason, of the files that claim to
    be images and of the others. duplicates: at most 10 of (item id, uri, uri). fingerprint, listing: the state of a
    SetDigest, of what was written and of what was listed. kept: items of the base release that were not read,
    `reworded` of them with other attributes. changed: of those that were read, how many it holds in another version.
    """

    items: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    bytes: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    claimed: int = 0
    labelled: int = 0
    updated: int = 0
    kept: int = 0
    reworded: int = 0
    changed: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    duplicates: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    fingerprint: str = "0:0"
    listing: str = "0:0"
    spans: list[int] = dataclasses.field(default_factory=list)


def list_by_shard(source: Source, shards: int) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Yields (shard, entries as tuples), some thousand entries at a time: what flows costs by the piece."""
    waiting: dict[int, list[tuple[Any, ...]]] = {}
    for number, entry in enumerate(list_entries(source), 1):
        waiting.setdefault(shard_of(entry.item_id, shards), []).append(entry.to_tuple())
        if number % _LISTED_AT_ONCE == 0:
            yield from waiting.items()
            waiting = {}
    yield from waiting.items()


def list_entries(source: Source) -> Iterator[Entry]:
    """Yields every entry of a collection, in any order; raises ListingError where it can't be listed."""
    return {"folder": list_folder, "archive": list_archive, "manifest": list_manifest}[source.kind](source)


def add_to_listing(digest: SetDigest, entry: Entry) -> None:
    """Adds `entry` to the digest of a listing, if it may become an item: other files may come and go."""
    if entry.reason is None or entry.is_claim:
        digest.add(entry.item_id, entry.uri, entry.size, entry.version, entry.place, entry.reason)


def shard_file(shard: int, shards: int) -> str:
    """Returns `data_tfrecord-00000-of-00008.gz` for the first of eight."""
    return f"data_tfrecord-{shard:05d}-of-{shards:05d}.gz"


def split_of(sha256: str, eval_percent: int) -> str:
    """Returns the split of a canonical image: identical content never straddles."""
    return "eval" if int(sha256[:16], 16) % 100 < eval_percent else "train"


def write_shard(
    source: Source,
    options: IngestOptions,
    shard: int,
    entries: Iterable[Entry],
    examples: str,
    report: str,
    base: Base | None = None,
) -> ShardResult:
    """Writes the examples of a shard below the uri `examples` and what it skipped below `report`.

    One image is in memory at a time. Where ids are duplicate nothing is read, and the result says so. base: the release
    whose items are not read again where nothing of them has changed.
    """
    result = ShardResult()
    chosen = _latest(entries, result)
    out, beside = open_store(examples), open_store(report)
    digest = SetDigest()
    held: set[str] = set()
    if base is not None and not result.duplicates:
        chosen, held = _keep(source, options, shard, chosen, out, base, result, digest)
    with ExitStack() as stack:
        notes = stack.enter_context(stack.enter_context(stored(out, notes_file(shard, options.shards))).open("w"))
        name = shard_file(shard, options.shards)
        writers = {split: _writer(stack, out, f"Split-{split}/{name}") for split in SPLITS}
        skipped = stack.enter_context(stack.enter_context(stored(beside, skipped_file(shard))).open("w"))
        for entry, image in _images(source, options, [] if result.duplicates else chosen):
            if entry.is_claim:
                result.claimed += 1
            if isinstance(image, ImageError):
                counts = result.skipped if entry.is_claim else result.ignored
                counts[image.reason] = counts.get(image.reason, 0) + 1
                skipped.write(_skipped_line(entry, image))
                continue
            label = _label(entry, source, options)
            split = split_of(image.sha256, options.eval_percent)
            writers[split].write(_example(entry, image, label))
            write_note(notes, entry.item_id, Note(entry.size, entry.version))
            digest.add(entry.item_id, image.sha256, label, json.dumps(entry.attributes))
            result.items[split] += 1
            result.bytes[split] += len(image.data)
            result.labelled += label is not None
            result.changed += entry.item_id in held
            if not entry.is_claim:
                # It had no extension, and is an image.
                result.claimed += 1
    result.fingerprint = digest.state
    return result


def _keep(
    source: Source,
    options: IngestOptions,
    shard: int,
    entries: Sequence[Entry],
    examples: Store,
    base: Base,
    result: ShardResult,
    digest: SetDigest,
) -> tuple[list[Entry], set[str]]:
    """Writes which entries the base release holds unchanged; returns the others, and which of these it holds."""
    others, held = [], set()
    places: list[tuple[int, int]] = []
    held_out: list[bool] = []
    attributes: dict[int, dict[str, Attribute]] = {}
    keeps = base.keeps(json.loads(options.to_json())["limits"])
    with BaseItems(base) as items:
        for start in range(0, len(entries), _LOOKED_UP_AT_ONCE):
            some = entries[start : start + _LOOKED_UP_AT_ONCE]
            found = items.find([entry.item_id for entry in some])
            for entry in some:
                place = found.get(entry.item_id)
                if place is None:
                    others.append(entry)
                    continue
                base_shard, row, item = place
                if not keeps or not _is_version(entry, item):
                    others.append(entry)
                    held.add(entry.item_id)
                    continue
                label = _label(entry, source, options)
                now = as_stored(entry.attributes, label)
                if attributes_differ(item, now):
                    attributes[len(places)] = now
                split = split_of(item.sha256, options.eval_percent)
                places.append((base_shard, row))
                held_out.append(split == "eval")
                digest.add(entry.item_id, item.sha256, label, json.dumps(entry.attributes))
                result.items[split] += 1
                result.claimed += 1
                result.labelled += label is not None
    result.kept, result.reworded = len(places), len(attributes)
    kept = Kept(np.asarray(places, np.int64).reshape(-1, 2), np.asarray(held_out, bool), attributes)
    write_kept(examples, shard, options.shards, kept)
    return others, held


def _is_version(entry: Entry, item: Item) -> bool:
    """Returns whether an entry is what the base's item was made from; never where its version isn't known."""
    return (
        entry.reason is None
        and entry.version != ""
        and (entry.version, entry.size, entry.uri) == (item.source_version, item.source_size, item.uri)
    )


def skipped_file(shard: int) -> str:
    """Returns the file, in the report, of what a shard skipped: a JSON object per line."""
    return f"skipped/{shard:05d}.jsonl"


def _latest(entries: Iterable[Entry], result: ShardResult) -> list[Entry]:
    """Returns the entries that count, by id: of several spans the latest. Duplicate ids in a span go to `result`."""
    by_id: dict[str, Entry] = {}
    others = []
    spans, listing = set(), SetDigest()
    for entry in sorted(entries, key=lambda entry: (entry.item_id, entry.span, entry.uri, entry.place)):
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
    result.spans, result.listing = sorted(spans), listing.state
    return [*by_id.values(), *others]


def _images(
    source: Source, options: IngestOptions, entries: Sequence[Entry]
) -> Iterator[tuple[Entry, CanonicalImage | ImageError]]:
    limits = options.limits
    readable = []
    for entry in entries:
        if entry.reason is not None:
            yield entry, ImageError(entry.reason, _MESSAGES[entry.reason])
        elif entry.size > limits.max_bytes:
            message = f"an image may have {limits.max_bytes} bytes, got {entry.size}."
            yield entry, ImageError("too-large", message)
        else:
            readable.append(entry)
    if source.kind == "archive":
        contents = read_members(source.uri, readable, limits.max_bytes) if readable else iter(())
    else:
        contents = ((entry, _read(entry.uri, limits.max_bytes)) for entry in readable)
    for entry, data in contents:
        if data is None:
            yield entry, ImageError("unreadable", _MESSAGES["unreadable"])
            continue
        try:
            yield entry, canonicalize(data, limits)
        except ImageError as error:
            yield entry, error


_MESSAGES = {
    "hidden": "the file or its folder is hidden, or an operating system's own.",
    "extension": "the name's extension is not that of an image.",
    "outside-spans": "it lies beside the spans.",
    "bad-name": "the name is not UTF-8.",
    "missing": "there is no such file.",
    "not-a-file": "it is no regular file.",
    "link-to-parent": "it links to a folder that holds it.",
    "unreadable": "it can't be read.",
}


def _read(uri: str, max_bytes: int) -> bytes | None:
    try:
        with open_file(uri) as file:
            return file.read(max_bytes + 1)
    except OSError:
        return None


def _label(entry: Entry, source: Source, options: IngestOptions) -> str | None:
    if options.label_from is None:
        return None
    if options.label_from == "manifest":
        return entry.label
    folders = entry.item_id.split("/")[:-1]
    if not folders:
        return None
    return folders[0] if options.label_from == "folder" else folders[-1]


def _writer(stack: ExitStack, store: Store, path: str) -> Any:
    local = stack.enter_context(stored(store, path))
    return stack.enter_context(tf.io.TFRecordWriter(str(local), _GZIP))


def _example(entry: Entry, image: CanonicalImage, label: str | None) -> bytes:
    values: dict[str, bytes | int | float | str] = {
        features.IMAGE: image.data,
        features.ITEM_ID: entry.item_id,
        features.SHA256: image.sha256,
        features.URI: entry.uri,
        features.WIDTH: image.width,
        features.HEIGHT: image.height,
        **{features.attribute_feature(name): value for name, value in entry.attributes},
    }
    if label is not None:
        values[features.LABEL] = label
    example = tf.train.Example()
    for name, value in values.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    return bytes(example.SerializeToString(deterministic=True))


def _skipped_line(entry: Entry, error: ImageError) -> str:
    value = {
        "item_id": entry.item_id,
        "uri": entry.uri,
        "reason": error.reason,
        "message": str(error),
        "claimed_to_be_an_image": entry.is_claim,
    }
    return json.dumps(value, sort_keys=True) + "\n"
