"""What an encoder says of itself: `assets.extra/lookalike_encoder.json`, and the digest that names its bytes."""

import base64
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.release.manifest import FileEntry, ManifestError

FORMAT_VERSION = 1
# The families whose embeddings are found by their signs, a code of bits.
BINARY_FAMILIES = ("binary", "itq")
_BLOCK = 2**20


@dataclasses.dataclass(frozen=True)
class Probe:
    """A canonical image and the embedding the encoder gave it when it was validated. embedding: float32 `[D]`."""

    image: bytes
    embedding: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """An encoder, by value. dimension: D. height, width: pixels it resizes to. channels: 1 or 3.

    family: `convolutional` and the like. normalised: whether embeddings have unit length.
    metrics: what EncoderEvaluator measured. data_fingerprint: of the examples it was trained on.
    """

    dimension: int
    height: int
    width: int
    channels: int
    family: str
    normalised: bool
    metrics: dict[str, Any]
    data_fingerprint: str
    probes: tuple[Probe, ...]

    def to_json(self) -> bytes:
        """Returns UTF-8 JSON."""
        value = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        value["format_version"] = FORMAT_VERSION
        value["probes"] = [
            {"image": base64.b64encode(p.image).decode(), "embedding": [float(x) for x in p.embedding]}
            for p in self.probes
        ]
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "EncoderInfo":
        """Returns the encoder described in `data`; raises ManifestError where it isn't one we can read."""
        try:
            value = json.loads(data)
            version = value.pop("format_version")
            if version != FORMAT_VERSION:
                raise ManifestError(f"format_version must be {FORMAT_VERSION}, got {version!r}.")
            value["probes"] = tuple(
                Probe(base64.b64decode(p["image"], validate=True), np.asarray(p["embedding"], np.float32))
                for p in value["probes"]
            )
            return cls(**value)
        except ManifestError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"not a description of an encoder: {error!r}") from error


def file_sha256(path: pathlib.Path) -> str:
    """Returns the sha256 of a local file, in hex, reading a block at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def list_files(folder: pathlib.Path) -> list[FileEntry]:
    """Returns every file below a local folder with its size and sha256, sorted by path."""
    files = sorted((f.relative_to(folder).as_posix(), f) for f in folder.rglob("*") if f.is_file())
    return [FileEntry(name, file.stat().st_size, file_sha256(file)) for name, file in files]


def tree_digest(files: Iterable[FileEntry]) -> str:
    """Returns the sha256, in hex, over the sorted (path, size, sha256) of `files`: what names an encoder's content."""
    lines = sorted(f"{entry.path}\0{entry.size}\0{entry.sha256}\n" for entry in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
