"""Everything that is checked of a release before it is served, and needs no running encoder."""

import pathlib
import sqlite3
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serving.release.encoder_info import EncoderInfo, file_sha256, list_files, tree_digest
from serving.release.manifest import EncoderRef, FileEntry, ManifestError

# Embeddings are float32: of unit length within this.
UNIT_TOLERANCE = 1e-3
# Scores closer than this may have been computed in another order: they are the same.
SCORE_TOLERANCE = 1e-5
_BLOCK = 65536  # embeddings checked at a time
FAULTS = ("manifest", "file", "encoder", "embeddings", "index", "items", "updates", "golden", "probe")


class ReleaseRefused(Exception):
    """A release that must not be served, and why: it will not get better by trying again.

    fault: what of it is wrong, in a word: one of FAULTS.
    """

    def __init__(self, reason: str, *, fault: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault


class PublishRefused(Exception):
    """What was to be published doesn't belong together, or the serving root has changed meanwhile."""


def check_file(file: pathlib.Path, entry: FileEntry) -> None:
    """Raises ReleaseRefused where a local file is not, byte for byte, what the manifest says."""
    if not file.is_file():
        raise ReleaseRefused(f"{entry.path} is missing.", fault="file")
    size = file.stat().st_size
    if size != entry.size:
        raise ReleaseRefused(f"{entry.path} has {size} bytes, the manifest says {entry.size}.", fault="file")
    digest = file_sha256(file)
    if digest != entry.sha256:
        raise ReleaseRefused(f"{entry.path} has sha256 {digest}, the manifest says {entry.sha256}.", fault="file")


def check_files(folder: pathlib.Path, entries: Iterable[FileEntry]) -> None:
    """Raises ReleaseRefused where a file below `folder` is not what the manifest says."""
    for entry in entries:
        check_file(folder / entry.path, entry)


def check_encoder_folder(folder: pathlib.Path, expected: EncoderRef, info_file: str) -> EncoderInfo:
    """Returns what the encoder in a local folder says of itself; raises ReleaseRefused where it isn't `expected`."""
    name = f"encoder {expected.model} version {expected.version}"
    if not folder.is_dir():
        raise ReleaseRefused(f"{name} is missing.", fault="encoder")
    digest = tree_digest(list_files(folder))
    if digest != expected.digest:
        raise ReleaseRefused(f"{name} has digest {digest}, the manifest says {expected.digest}.", fault="encoder")
    try:
        info = EncoderInfo.from_json((folder / info_file).read_bytes())
    except FileNotFoundError as error:
        raise ReleaseRefused(f"{name} has no {info_file}.", fault="encoder") from error
    except ManifestError as error:
        raise ReleaseRefused(f"{info_file} of {name}: {error}", fault="encoder") from error
    if (info.dimension, info.normalised) != (expected.dimension, expected.normalised):
        raise ReleaseRefused(
            f"{name} has dimension {info.dimension} and normalised {info.normalised}, "
            f"the manifest says {expected.dimension} and {expected.normalised}.",
            fault="encoder",
        )
    if not info.probes:
        raise ReleaseRefused(f"{name} carries no probe, so nobody could tell it from another.", fault="encoder")
    for probe in info.probes:
        if probe.embedding.shape != (info.dimension,) or not np.isfinite(probe.embedding).all():
            raise ReleaseRefused(
                f"{name} has a probe of shape {probe.embedding.shape}, expected ({info.dimension},).", fault="encoder"
            )
    return info


def open_embeddings(
    file: pathlib.Path, count: int, dimension: int, *, checked: bool = False
) -> npt.NDArray[np.float32]:
    """Returns a shard's embeddings, float32 `[count, dimension]`, mapped; raises ReleaseRefused where they aren't.

    checked: whether their lengths are known to be right; else each is looked at.
    """
    try:
        # An empty file can't be mapped.
        embeddings = np.load(file, mmap_mode="r" if count else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ReleaseRefused(f"{file.name}: {error}", fault="embeddings") from error
    found = embeddings.dtype, embeddings.shape, embeddings.flags.c_contiguous
    if found != (np.dtype("<f4"), (count, dimension), True):
        raise ReleaseRefused(
            f"{file.name} holds {embeddings.dtype} {embeddings.shape}, expected float32 ({count}, {dimension}).",
            fault="embeddings",
        )
    for start in range(0, 0 if checked else count, _BLOCK):
        block = np.asarray(embeddings[start : start + _BLOCK])
        norms = np.sqrt(np.einsum("ij,ij->i", block, block))
        # NaN is near nothing.
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))
        if len(wrong):
            raise ReleaseRefused(
                f"{file.name} row {start + wrong[0]} has length {norms[wrong[0]]}, expected 1 within {UNIT_TOLERANCE}.",
                fault="embeddings",
            )
    return embeddings


# What reading a damaged or foreign SQLite file, index or JSON raises.
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, sqlite3.DatabaseError)
