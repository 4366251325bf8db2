"""Embeddings by the sha256 of canonical bytes, kept in the serving root so that no content is encoded twice.

Its files are those of serving.release.cached_embeddings. A run only ever adds some; two may do so at the same time.
"""

import logging
from collections.abc import Iterable

from serving.release.cached_embeddings import Keys, Vectors, list_pairs, read_pair, write_pair
from serving.storage import Store

_log = logging.getLogger(__name__)


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
        self._digest = encoder_digest
        self._dimension = dimension

    def lookup(self, prefix: str, wanted: Iterable[bytes]) -> dict[bytes, Vectors]:
        """Returns the embedding, float32 `[D]`, of every known one of the keys `wanted`, which begin with `prefix`."""
        missing = set(wanted)
        found: dict[bytes, Vectors] = {}
        for stem, other, _ in list_pairs(self._store, self._digest):
            if not missing:
                break
            # Runs of other sizes use longer or shorter prefixes.
            if not (other.startswith(prefix) or prefix.startswith(other)):
                continue
            pair = read_pair(self._store, stem)
            if pair is None:
                continue
            keys, vectors = pair
            if vectors.shape[1] != self._dimension:
                _log.warning("cached embeddings %s have vectors of shape %s: ignored", stem, vectors.shape)
                continue
            for row, key in enumerate(map(bytes, keys)):
                if key in missing:
                    missing.remove(key)
                    # A copy: a view would keep the whole file in memory.
                    found[key] = vectors[row].copy()
        return found

    def add(self, prefix: str, keys: Keys, vectors: Vectors) -> None:
        """Writes the embeddings `[n, D]` of new `keys`, uint8 `[n, 32]`, which begin with `prefix`."""
        write_pair(self._store, self._digest, prefix, keys, vectors)
