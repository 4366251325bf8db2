"""The manifest of a release: what it holds, what made it, and the sha256 of every byte of it."""

import dataclasses
import json
from typing import Any

FORMAT_VERSION = 1


class ManifestError(ValueError):
    """A manifest that can't be read, or that contradicts itself."""


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file of a release or encoder. path: relative, with `/`. size: bytes. sha256: of its content, in hex."""

    path: str
    size: int
    sha256: str


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


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of the index. count: its items. files: everything it consists of, relative to the release."""

    index: str
    embeddings: str
    items: str
    count: int
    files: tuple[FileEntry, ...]


@dataclasses.dataclass(frozen=True)
class IndexRef:
    """The index of a release. kind: `exact`, `brute_force` or `tree`. metric: `cosine`. count: over all shards."""

    kind: str
    metric: str
    count: int
    parameters: dict[str, Any]
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class GoldenQuery:
    """A held-out item and its exact neighbours, best first, itself left out; a loaded index must find them again."""

    item_id: str
    neighbors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`release.json`. created: seconds since the epoch. parent: the release it replaced, or None for the first.

    golden_recall: the least recall on `golden` with which a reader may serve this release, in [0, 1].
    evaluation, lineage: JSON values, by value: nothing in them needs a metadata store to be understood.
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
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        counts = sum(shard.count for shard in self.index.shards)
        if counts != self.index.count:
            raise ManifestError(f"index.count is {self.index.count}, but its shards hold {counts} items.")
        if self.index.count < 1:
            raise ManifestError("a release needs at least one item.")
        if self.encoder.dimension < 1:
            raise ManifestError(f"encoder.dimension must be at least 1, got {self.encoder.dimension}.")
        if self.index.metric != "cosine":
            raise ManifestError(f"index.metric must be 'cosine', got {self.index.metric!r}.")

    def to_json(self) -> bytes:
        """Returns the manifest as UTF-8 JSON."""
        return (json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Returns the manifest in `data`; raises ManifestError where it isn't one of a format we read."""
        try:
            value = json.loads(data)
            version = value["format_version"]
            if version != FORMAT_VERSION:
                raise ManifestError(f"format_version must be {FORMAT_VERSION}, got {version!r}.")
            index = dict(value["index"])
            index["shards"] = tuple(
                Shard(**{**shard, "files": tuple(FileEntry(**entry) for entry in shard["files"])})
                for shard in index["shards"]
            )
            value["encoder"] = EncoderRef(**value["encoder"])
            value["index"] = IndexRef(**index)
            value["golden"] = tuple(GoldenQuery(g["item_id"], tuple(g["neighbors"])) for g in value["golden"])
            return cls(**value)
        except ManifestError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"not a release manifest: {error!r}") from error
