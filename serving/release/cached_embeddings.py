"""The files of the embeddings cache: pairs of keys and vectors, as runs write them and retention compacts them.

`embeddings-cache/<encoder digest>/<prefix>-<check>.keys.npy` (uint8 `[n, 32]`) and `.vectors.npy` (float32 `[n, D]`):
the keys, sha256s of canonical bytes, in a pair begin with the hex digits `prefix`; `check` is the sha256 over both
files, so that a torn, foreign or damaged pair is told from a good one.
"""

import hashlib
import io
import logging
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.release.layout import cache_folder
from serving.storage import Stat, Store

_logger = logging.getLogger(__name__)

KEY_BYTES = 32
_KEYS = ".keys.npy"
_VECTORS = ".vectors.npy"
_NAME = re.compile(r"([0-9a-f]*)-([0-9a-f]{64})")

Keys = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


class Pair(NamedTuple):
    """A pair of files. stem: what both paths begin with. modified: seconds since the epoch, of the keys."""

    stem: str
    prefix: str
    modified: float


def list_pairs(store: Store, encoder_digest: str) -> list[Pair]:
    """Returns the pairs of an encoder, sorted by name."""
    found = []
    for stat in store.files(cache_folder(encoder_digest)):
        name = stat.path.rpartition("/")[2]
        match = _NAME.fullmatch(name.removesuffix(_KEYS)) if name.endswith(_KEYS) else None
        if match:
            found.append(Pair(stat.path.removesuffix(_KEYS), match[1], stat.modified))
    return found


def list_orphans(store: Store, encoder_digest: str) -> list[Stat]:
    """Returns vectors without their keys: of a writer that goes on in a moment, or that died."""
    stats = list(store.files(cache_folder(encoder_digest)))
    whole = {stat.path.removesuffix(_KEYS) + _VECTORS for stat in stats if stat.path.endswith(_KEYS)}
    return [stat for stat in stats if stat.path.endswith(_VECTORS) and stat.path not in whole]


def read_pair(store: Store, stem: str) -> tuple[Keys, Vectors] | None:
    """Returns the keys, uint8 `[n, 32]`, and vectors, float32 `[n, D]`, of a pair; None where they can't be right."""
    try:
        key_bytes, vector_bytes = store.read(stem + _KEYS), store.read(stem + _VECTORS)
    except FileNotFoundError:
        _logger.warning("cached embeddings %s are incomplete: ignored", stem)
        return None
    if hashlib.sha256(key_bytes + vector_bytes).hexdigest() != stem.rpartition("-")[2]:
        _logger.warning("cached embeddings %s are damaged: ignored", stem)
        return None
    try:
        keys = np.load(io.BytesIO(key_bytes), allow_pickle=False)
        vectors = np.load(io.BytesIO(vector_bytes), allow_pickle=False)
    except ValueError as error:
        _logger.warning("cached embeddings %s can't be read: ignored: %s", stem, error)
        return None
    count = len(keys)
    if keys.shape != (count, KEY_BYTES) or keys.dtype != np.uint8:
        _logger.warning("cached embeddings %s have keys of shape %s: ignored", stem, keys.shape)
        return None
    if vectors.ndim != 2 or len(vectors) != count or vectors.dtype != np.float32:
        _logger.warning("cached embeddings %s have vectors of shape %s: ignored", stem, vectors.shape)
        return None
    return keys, vectors


def write_pair(store: Store, encoder_digest: str, prefix: str, keys: Keys, vectors: Vectors) -> str:
    """Writes a pair; returns its stem. keys: uint8 `[n, 32]`, each beginning with `prefix`. vectors: `[n, D]`."""
    key_bytes, vector_bytes = _npy(keys), _npy(np.ascontiguousarray(vectors, np.float32))
    check = hashlib.sha256(key_bytes + vector_bytes).hexdigest()
    stem = f"{cache_folder(encoder_digest)}/{prefix}-{check}"
    # The keys last: a pair without them is not looked at.
    store.write(stem + _VECTORS, vector_bytes)
    store.write(stem + _KEYS, key_bytes)
    return stem


def delete_pair(store: Store, stem: str) -> None:
    """Deletes a pair."""
    store.delete(stem + _KEYS)
    store.delete(stem + _VECTORS)


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
