"""Packed codes of bits: a short list by Hamming distance, ranked again by the embeddings."""

import copy
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.index.folder import save_parameters
from serving.index.index import Embeddings, Rows, check_query, check_tuned, plain
from serving.index.parameters import IndexParameters

Codes = npt.NDArray[np.uint8]
Words = npt.NDArray[Any]  # of some unsigned integer
_WORDS = (np.uint64, np.uint32, np.uint16, np.uint8)
_BLOCK = 32_768  # codes compared at a time: 256 KiB of 64 bits, which stay in a core's cache
_USUAL_K = 32

# NumPy 2 counts bits by an instruction of the processor. NumPy 1 looks them up, 16 at a time.
_bitwise_count = getattr(np, "bitwise_count", None)
_COUNTS = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(1, dtype=np.uint8)


def pack_codes(embeddings: Embeddings) -> Codes:
    """Returns the signs of float32 `[N, D]` as bits, uint8 `[N, ceil(D / 8)]`: 1 where a number isn't negative.

    The first is the highest bit of the first byte, as `numpy.unpackbits` reads it and an encoder's `hash` writes it.
    """
    return np.packbits(embeddings >= 0.0, axis=1)


class HammingIndex:
    """The signs of the embeddings as codes of D bits: a short list by Hamming distance, ranked by the embeddings.

    Where the embeddings are nothing but signs the order is that of the codes, since the cosine of two vectors of signs
    is 1 - 2 Hamming / D. Where they are the activations of a binary encoder, they rank what the codes have found
    (Sze-To, Tizhoosh, Wong, "Binary codes for tagging X-ray images via deep de-noising autoencoders", 2016).

    In memory an item takes its code, ceil(D / 8) bytes. Embeddings are read for the short list only: mapped from a
    file, the others need not be in memory.
    """

    kind = "hamming"

    def __init__(self, embeddings: Embeddings, parameters: IndexParameters) -> None:
        self._embeddings = plain(embeddings)
        self._parameters = parameters
        self.count, self.dimension = embeddings.shape
        blocks = [pack_codes(self._embeddings[start : start + _BLOCK]) for start in range(0, self.count, _BLOCK)]
        self._words = _as_words(np.concatenate(blocks)) if blocks else None

    @property
    def bytes_per_item(self) -> int:
        """Of memory, without the embeddings."""
        return -(-self.dimension // 8)

    def search(self, queries: Embeddings, k: int, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        k = check_query(self, queries, k)
        rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        if not k or self._words is None:
            return rows, scores
        short = min(self.count, self._short_list(k, effort))
        for number, (query, code) in enumerate(zip(queries, _as_words(pack_codes(queries)).T, strict=True)):
            found = self._nearest(code, short)
            # Not a product by BLAS: its threads would fight with the other searches for the processors.
            products = np.einsum("ij,j->i", self._embeddings.take(found, axis=0), query)
            order = np.argsort(-products, kind="stable")[:k]
            rows[number], scores[number] = found[order], products[order]
        return rows, scores

    def tuned(self, parameters: IndexParameters) -> "HammingIndex":
        check_tuned(self.kind, self._parameters, parameters)
        other = copy.copy(self)
        other._parameters = parameters
        return other

    def save(self, folder: pathlib.Path) -> None:
        # The codes are nothing but the signs of the embeddings: a file of them could only contradict those.
        save_parameters(folder, self._parameters, self.count, self.dimension)

    def _short_list(self, k: int, effort: int) -> int:
        # As in a tree: the parameters are chosen for some ten neighbours, and more of them lie deeper.
        depth = self._parameters.reorder * effort
        return max(k, depth if k <= _USUAL_K else round(depth * (k / _USUAL_K) ** 0.5))

    def _nearest(self, code: Words, short: int) -> Rows:
        """Returns `short` rows with the least distances, ascending; of equals those that come first."""
        distances = self._distances(code)
        # The least distance within which there are enough. Halving takes 6 passes for 64 bits, each over a byte an
        # item, and is 5 times as fast as a partition.
        low, high = 0, self.dimension
        while low < high:
            middle = (low + high) // 2
            if np.count_nonzero(distances <= middle) >= short:
                high = middle
            else:
                low = middle + 1
        found = np.flatnonzero(distances <= high)
        if len(found) == short:
            return found
        at_bar = np.flatnonzero(distances[found] == high)
        return np.delete(found, at_bar[short - len(found) :])

    def _distances(self, code: Words) -> npt.NDArray[Any]:
        """Returns the Hamming distance of every code from one, `[W]`: unsigned `[N]`."""
        assert self._words is not None
        distances: Words = np.zeros(self.count, np.uint8 if self.dimension < 256 else np.uint16)
        for start in range(0, self.count, _BLOCK):
            block = distances[start : start + _BLOCK]
            for words, word in zip(self._words, code, strict=True):
                block += _count_bits(words[start : start + _BLOCK] ^ word)
        return distances


def build_hamming(embeddings: Embeddings, parameters: IndexParameters) -> HammingIndex:
    """Returns an index over the signs of `embeddings`."""
    return HammingIndex(embeddings, parameters)


def load_hamming(folder: pathlib.Path, embeddings: Embeddings, parameters: IndexParameters) -> HammingIndex:
    """Returns the index that `HammingIndex.save` wrote into `folder`."""
    return HammingIndex(embeddings, parameters)


def _as_words(codes: Codes) -> Words:
    """Returns codes `[N, B]` as words `[W, N]`, the widest of which a code is made."""
    word = next(word for word in _WORDS if codes.shape[1] % np.dtype(word).itemsize == 0)
    return np.ascontiguousarray(np.ascontiguousarray(codes).view(word).T)


def _count_bits(words: Words) -> npt.NDArray[np.uint8]:
    """Returns how many bits of each word `[N]` are 1."""
    if _bitwise_count is not None:
        counts: npt.NDArray[np.uint8] = _bitwise_count(words)
        return counts
    if words.itemsize == 1:
        return _COUNTS[words]
    return _COUNTS[words.view(np.uint16)].reshape(len(words), -1).sum(axis=1, dtype=np.uint8)
