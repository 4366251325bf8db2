"""Makes a shard of a collection into examples: reads, makes canonical, splits and writes one image at a time."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import tensorflow as tf

from components import features
from components.artifact_files import stored
from components.ingest.archives import list_archive, read_members
from components.ingest.choice import add_to_listing as add_to_listing
from components.ingest.choice import choose
from components.ingest.folders import list_folder
from components.ingest.image_manifest import list_manifest
from components.ingest.item_files import item_of, item_writers
from components.ingest.keeping import Others, keep_unchanged
from components.ingest.keeping import split_of as split_of
from components.ingest.listing import Entry, ListingError, Source, open_file
from components.ingest.notes import write_contents, write_kept
from components.ingest.set_digest import SetDigest
from components.ingest.shard_result import SPLITS as SPLITS
from components.ingest.shard_result import ShardResult as ShardResult
from components.reindex.base import Base
from serving.images import CanonicalImage, ImageError, ImageLimits, canonicalize
from serving.journal.contents import Contents
from serving.release.layout import shard_of
from serving.storage import Store, open_store

LABELS = ("folder", "parent", "manifest")
_MOST_SHARDS = 10_000
_LISTED_AT_ONCE = 10_000
_SHORT = 4
_PLAIN = Entry("", "", -1, "")[_SHORT:]
# Images are compressed already: the format is gzip because TFX's is, and what it holds is stored as it is. Every step
# reads it, and unpacking a photograph would cost a third of what encoding it does, to save 3 % of the disk.
_GZIP = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=0)


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


def list_by_shard(source: Source, shards: int) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Yields (shard, entries as tuples), some thousand entries at a time: what flows costs by the piece.

    A tuple may lack what has its default in an Entry.
    """
    waiting: dict[int, list[tuple[Any, ...]]] = {}
    for number, entry in enumerate(list_entries(source), 1):
        # Most have nothing but a name, a size and a version.
        short = entry[:_SHORT] if entry[_SHORT:] == _PLAIN else tuple(entry)
        waiting.setdefault(shard_of(entry.item_id, shards), []).append(short)
        if number % _LISTED_AT_ONCE == 0:
            yield from waiting.items()
            waiting = {}
    yield from waiting.items()


def list_entries(source: Source) -> Iterator[Entry]:
    """Yields every entry of a collection, in any order; raises ListingError where it can't be listed."""
    return {"folder": list_folder, "archive": list_archive, "manifest": list_manifest}[source.kind](source)


def shard_file(shard: int, shards: int) -> str:
    """Returns `data_tfrecord-00000-of-00008.gz` for the first of eight."""
    return f"data_tfrecord-{shard:05d}-of-{shards:05d}.gz"


def write_shard(
    source: Source,
    options: IngestOptions,
    shard: int,
    entries: Iterable[Entry],
    examples: str,
    report: str,
    base: Base | None = None,
    serving_root: str = "",
) -> ShardResult:
    """Writes the examples of a shard below the uri `examples` and what it skipped below `report`.

    One image is in memory at a time, and a batch of thumbnails. Where ids are duplicate nothing is read, and the result
    says so. base: the release whose items are not read again where nothing of them has changed. serving_root: that
    holds the upserted images.
    """
    result = ShardResult()
    # A reindex asks no cache, which the listing's digest is for.
    chosen = choose(entries, result, digest_listing=base is None)
    out, beside = open_store(examples), open_store(report)
    digest = SetDigest()
    contents: dict[str, list[str]] = {split: [] for split in SPLITS}
    others = Others(chosen.entries, set())
    if base is not None and not result.duplicates:
        limits, percent = json.loads(options.to_json())["limits"], options.eval_percent
        kept, others = keep_unchanged(
            chosen, base, limits, percent, lambda entry: _label(entry, source, options), result, digest
        )
        write_kept(out, shard, options.shards, kept)
    with ExitStack() as stack:
        items = stack.enter_context(item_writers(out, shard, options.shards))
        name = shard_file(shard, options.shards)
        writers = {split: _writer(stack, out, f"Split-{split}/{name}") for split in SPLITS}
        skipped = stack.enter_context(stack.enter_context(stored(beside, skipped_file(shard))).open("w"))
        for entry, image in _images(source, options, [] if result.duplicates else others.entries, serving_root):
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
            contents[split].append(image.sha256)
            items[split].add(item_of(entry, image, label))
            digest.add(entry.item_id, image.sha256, label, entry.attributes)
            result.items[split] += 1
            result.bytes[split] += len(image.data)
            result.labelled += label is not None
            result.changed += entry.item_id in others.held
            if not entry.is_claim:
                # It had no extension, and is an image.
                result.claimed += 1
    write_contents(out, shard, options.shards, [sha256 for split in SPLITS for sha256 in contents[split]])
    result.fingerprint = digest.state
    return result


def skipped_file(shard: int) -> str:
    """Returns the file, in the report, of what a shard skipped: a JSON object per line."""
    return f"skipped/{shard:05d}.jsonl"


def _images(
    source: Source, options: IngestOptions, entries: Sequence[Entry], serving_root: str
) -> Iterator[tuple[Entry, CanonicalImage | ImageError]]:
    limits = options.limits
    readable = []
    for entry in entries:
        if entry.content is not None:
            yield entry, _upserted(entry, serving_root)
        elif entry.reason is not None:
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


def _upserted(entry: Entry, serving_root: str) -> CanonicalImage:
    """Returns the image of an upsert, which the gateway has made canonical; raises where it isn't there or another."""
    assert entry.content is not None
    sha256, width, height = entry.content
    return CanonicalImage(Contents(open_store(serving_root)).get(sha256), width, height, 0, "")


def _read(uri: str, max_bytes: int) -> bytes | None:
    try:
        with open_file(uri) as file:
            return file.read(max_bytes + 1)
    except OSError:
        return None


def _label(entry: Entry, source: Source, options: IngestOptions) -> str | None:
    if options.label_from is None:
        return None
    if entry.update:
        # A folder says nothing of what did not come from it.
        said = dict(entry.attributes).get("label")
        return said if isinstance(said, str) else None
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
        # What a gateway took in may be of any type, and a schema is for what the collection is made of: see its item.
        **({} if entry.update else {features.attribute_feature(name): value for name, value in entry.attributes}),
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
