"""The manifest of a release: what it holds, what made it, and the sha256 of every byte of it."""

import dataclasses
import hashlib
import json
import math
import re
from typing import Any

from serving.index.parameters import KINDS
from serving.release import layout

FORMAT_VERSION = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Relative, and without a part that climbs out of its folder.
_PART = r"(?!\.{1,2}(/|$))[^/\\\x00-\x1f\x7f]+"
_PATH = re.compile(f"{_PART}(/{_PART})*")


class ManifestError(ValueError):
    """A manifest that can't be read, or that contradicts itself."""


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file of a release or encoder. path: relative, with `/`. size: bytes. sha256: of its content, in hex."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        _matches("file path", self.path, _PATH)
        _at_least(f"size of {self.path}", self.size, 0)
        _matches(f"sha256 of {self.path}", self.sha256, _SHA256)


@dataclasses.dataclass(frozen=True)
class EncoderRef:
    """The encoder a release was embedded with: exactly this one may embed its queries.

    model, version: as TF Serving names it. digest: sha256 over the sorted (path, size, sha256) of its files.
    dimension: D of its embeddings. normalised: whether they have unit length.
    """

    model: str
    version: int
    digest: str
    dimension: int
    normalised: bool

    def __post_init__(self) -> None:
        _at_least("encoder.version", self.version, 1)
        _at_least("encoder.dimension", self.dimension, 1)
        _matches("encoder.digest", self.digest, _SHA256)
        _is_a("encoder.normalised", self.normalised, bool)
        _layout(layout.encoder_folder, self.model, self.version)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of the index. count: its items. files: everything it consists of, relative to the release."""

    index: str
    embeddings: str
    items: str
    count: int
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        _at_least("shard.count", self.count, 0)
        paths = [entry.path for entry in self.files]
        for path in paths:
            if path not in (self.embeddings, self.items) and not path.startswith(f"{self.index}/"):
                raise ManifestError(f"{path} does not belong to its shard.")
        for path in (self.embeddings, self.items):
            if paths.count(path) != 1:
                raise ManifestError(f"shard.files must name {path} once, got {paths.count(path)} times.")
        if len(set(paths)) < len(paths):
            raise ManifestError("shard.files names a file twice.")


@dataclasses.dataclass(frozen=True)
class IndexRef:
    """The index of a release. kind: `exact`, `brute_force` or `tree`. metric: `cosine`. count: over all shards."""

    kind: str
    metric: str
    count: int
    parameters: dict[str, Any]
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ManifestError(f"index.kind must be one of {KINDS}, got {self.kind!r}.")
        if self.metric != "cosine":
            raise ManifestError(f"index.metric must be 'cosine', got {self.metric!r}.")
        _is_a("index.parameters", self.parameters, dict)
        if self.parameters.get("kind") != self.kind:
            raise ManifestError(f"index.kind is {self.kind!r}, its parameters say {self.parameters.get('kind')!r}.")
        _at_least("index.count", self.count, 1)
        counts = sum(shard.count for shard in self.shards)
        if counts != self.count:
            raise ManifestError(f"index.count is {self.count}, but its shards hold {counts} items.")
        for number, shard in enumerate(self.shards):
            place = number, len(self.shards)
            paths = layout.index_folder(*place), layout.embeddings_file(*place), layout.items_file(*place)
            if (shard.index, shard.embeddings, shard.items) != paths:
                raise ManifestError(f"shard {number} of {len(self.shards)} must lie at {', '.join(paths)}.")


@dataclasses.dataclass(frozen=True)
class UpdatesRef:
    """The updates that were put into a release. upserts, tombstones: items that were upserted, or deleted, last."""

    file: FileEntry
    upserts: int
    tombstones: int

    def __post_init__(self) -> None:
        if self.file.path != layout.UPDATES_STATE:
            raise ManifestError(f"updates must lie at {layout.UPDATES_STATE}, got {self.file.path}.")
        _at_least("updates.upserts", self.upserts, 0)
        _at_least("updates.tombstones", self.tombstones, 0)


@dataclasses.dataclass(frozen=True)
class GoldenQuery:
    """A held-out item and its exact neighbours, best first, itself left out; a loaded index must find them again."""

    item_id: str
    neighbors: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in (self.item_id, *self.neighbors):
            _is_a("golden item id", name, str)
        if len({self.item_id, *self.neighbors}) != 1 + len(self.neighbors):
            raise ManifestError(f"golden query {self.item_id!r} names an item twice.")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`release.json`. created: seconds since the epoch. parent: the release it replaced, or None for the first.

    golden_recall: the least recall on `golden` with which a reader may serve this release, in [0, 1].
    evaluation, lineage: JSON values, by value: nothing in them needs a metadata store to be understood.
    updates: what was upserted and deleted, None where nothing ever was. watermark: of each writer of the journal the
    last segment that `updates` holds.
    """

    release_id: str
    created: float
    parent: str | None
    encoder: EncoderRef
    index: IndexRef
    golden: tuple[GoldenQuery, ...]
    golden_recall: float
    evaluation: dict[str, Any]
    lineage: dict[str, Any]
    updates: UpdatesRef | None = None
    watermark: dict[str, int] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ManifestError(f"format_version must be {FORMAT_VERSION}, got {self.format_version!r}.")
        _layout(layout.check_release_id, self.release_id)
        if self.parent is not None:
            _layout(layout.check_release_id, self.parent)
        for name, limit in (("created", math.inf), ("golden_recall", 1.0)):
            value = getattr(self, name)
            _is_a(name, value, (int, float))
            if not (0 <= value <= limit and math.isfinite(value)):
                raise ManifestError(f"{name} must be in [0, {limit}], got {value}.")
        _is_a("evaluation", self.evaluation, dict)
        _is_a("lineage", self.lineage, dict)
        _is_a("watermark", self.watermark, dict)
        for writer, seq in self.watermark.items():
            _layout(layout.check_writer_id, writer)
            _at_least(f"watermark of writer {writer}", seq, 1)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file that the release consists of, beside its manifest."""
        updates = () if self.updates is None else (self.updates.file,)
        return (*(entry for shard in self.index.shards for entry in shard.files), *updates)

    def to_json(self) -> bytes:
        """Returns the manifest as UTF-8 JSON; raises ValueError where evaluation or lineage hold NaN or infinity."""
        # There and back once, so that what is hashed is what a reader will find (a key of 10 becomes "10").
        value = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        # Without updates it is what it was before there were any, so that older gateways read it too.
        for name in ("updates", "watermark"):
            if not value[name]:
                del value[name]
        value["sha256"] = content_sha256(value)
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Returns the manifest in `data`; raises ManifestError where it isn't one of a format we read."""
        try:
            value = json.loads(data)
            version = value["format_version"]
            if version != FORMAT_VERSION:
                raise ManifestError(f"format_version must be {FORMAT_VERSION}, got {version!r}.")
            said = value.pop("sha256")
            if said != content_sha256(value):
                raise ManifestError(f"its content has sha256 {content_sha256(value)}, it says {said}.")
            index = dict(value["index"])
            index["shards"] = tuple(
                Shard(**{**shard, "files": tuple(FileEntry(**entry) for entry in shard["files"])})
                for shard in index["shards"]
            )
            value["encoder"] = EncoderRef(**value["encoder"])
            value["index"] = IndexRef(**index)
            updates = value.get("updates")
            if updates is not None:
                value["updates"] = UpdatesRef(**{**updates, "file": FileEntry(**updates["file"])})
            value["golden"] = tuple(GoldenQuery(g["item_id"], tuple(g["neighbors"])) for g in value["golden"])
            return cls(**value)
        except ManifestError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ManifestError(f"not a release manifest: {error!r}") from error


def content_sha256(value: dict[str, Any]) -> str:
    """Returns the sha256, in hex, that a manifest with this content (a JSON value) carries of itself."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_a(name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    # bool is an int to Python, but not to us.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ManifestError(f"{name} is not of the right type: {value!r}.")


def _at_least(name: str, value: Any, least: int) -> None:
    _is_a(name, value, int)
    if value < least:
        raise ManifestError(f"{name} must be at least {least}, got {value}.")


def _matches(name: str, value: Any, pattern: re.Pattern[str]) -> None:
    _is_a(name, value, str)
    if not pattern.fullmatch(value):
        raise ManifestError(f"{name} must match {pattern.pattern}, got {value!r}.")


def _layout(check: Any, *values: Any) -> None:
    try:
        check(*values)
    except (ValueError, TypeError) as error:
        raise ManifestError(str(error)) from error
