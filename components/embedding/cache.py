"""Embeddings by the sha256 of canonical bytes, kept in the serving root so that no content is encoded twice.

`embeddings-cache/<encoder digest>/<prefix>-<check>.keys.npy` (uint8 `[n, 32]`) and `.vectors.npy` (float32 `[n, D]`):
the keys in a pair begin with the hex digits `prefix`; `check` is the sha256 over both, so that a torn, foreign or
damaged pair is told from a good one. Files are only ever added; two runs may write at the same time.
"""

import hashlib
import io
import logging
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from serving.release.layout import cache_folder
from serving.storage import Store

_log = logging.getLogger(__name__)
_KEYS = ".keys.npy"
_VECTORS = ".vectors.npy"
_NAME = re.compile(r"([0-9a-f]*)-([0-9a-f]{64})")
_KEY_BYTES = 32

Vectors = npt.NDArray[np.float32]


def prefix_digits(parts: int) -> int:
    """Returns how many hex digits make the buckets no larger than a part of the collection."""
    digits = 1
    while 16**digits < parts:
        digits += 1
    return digits


class EmbeddingsCache:
    """The embeddings that one encoder has computed. dimension: D."""

    def __init__(self, store: Store, encoder_digest: str, dimension: int) -> None:
        self._store = store
        self._folder = cache_folder(encoder_digest)
        self._dimension = dimension

    def lookup(self, prefix: str, wanted: Iterable[bytes]) -> dict[bytes, Vectors]:
        """Returns the embedding, float32 `[D]`, of every known one of the keys `wanted`, which begin with `prefix`."""
        missing = set(wanted)
        found: dict[bytes, Vectors] = {}
        for stem in self._stems(prefix):
            if not missing:
                break
            pair = self._read(stem)
            if pair is None:
                continue
            keys, vectors = pair
            for row, key in enumerate(map(bytes, keys)):
                if key in missing:
                    missing.remove(key)
                    # A copy: a view would keep the whole file in memory.
                    found[key] = vectors[row].copy()
        return found

    def add(self, prefix: str, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Writes the embeddings `[n, D]` of new `keys`, which begin with `prefix`."""
        packed = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
        key_bytes, vector_bytes = _npy(packed), _npy(np.ascontiguousarray(vectors, np.float32))
        stem = f"{self._folder}/{prefix}-{hashlib.sha256(key_bytes + vector_bytes).hexdigest()}"
        # The keys last: a pair without them is not looked at.
        self._store.write(stem + _VECTORS, vector_bytes)
        self._store.write(stem + _KEYS, key_bytes)

    def _stems(self, prefix: str) -> list[str]:
        stems = []
        for stat in self._store.files(self._folder):
            name = stat.path.rpartition("/")[2]
            match = _NAME.fullmatch(name.removesuffix(_KEYS)) if name.endswith(_KEYS) else None
            # Runs of other sizes use longer or shorter prefixes.
            if match and (match[1].startswith(prefix) or prefix.startswith(match[1])):
                stems.append(stat.path.removesuffix(_KEYS))
        return stems

    def _read(self, stem: str) -> tuple[npt.NDArray[np.uint8], Vectors] | None:
        try:
            key_bytes, vector_bytes = self._store.read(stem + _KEYS), self._store.read(stem + _VECTORS)
        except FileNotFoundError:
            _log.warning("cached embeddings %s are incomplete: ignored", stem)
            return None
        if hashlib.sha256(key_bytes + vector_bytes).hexdigest() != stem.rpartition("-")[2]:
            _log.warning("cached embeddings %s are damaged: ignored", stem)
            return None
        try:
            keys = np.load(io.BytesIO(key_bytes), allow_pickle=False)
            vectors = np.load(io.BytesIO(vector_bytes), allow_pickle=False)
        except ValueError as error:
            _log.warning("cached embeddings %s can't be read: ignored: %s", stem, error)
            return None
        count = len(keys)
        if keys.shape != (count, _KEY_BYTES) or keys.dtype != np.uint8:
            _log.warning("cached embeddings %s have keys of shape %s: ignored", stem, keys.shape)
            return None
        if vectors.shape != (count, self._dimension) or vectors.dtype != np.float32:
            _log.warning("cached embeddings %s have vectors of shape %s: ignored", stem, vectors.shape)
            return None
        return keys, vectors


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
