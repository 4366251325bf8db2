"""Every embedding compared with every query: small, and the oracle of the other kinds."""

import pathlib

import numpy as np

from serving.index.folder import save_parameters
from serving.index.index import Embeddings, Rows, check_query, check_tuned, plain
from serving.index.parameters import IndexParameters

_BLOCK = 8192  # embeddings a search scores at a time
_QUERIES = 256  # queries a search scores at a time: 256 x 8192 scores are 8 MB


class ExactIndex:
    """Every embedding compared with every query, in NumPy, ties by row: small, and the oracle of the others."""

    kind = "exact"

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = plain(embeddings)
        self.count, self.dimension = embeddings.shape

    def search(self, queries: Embeddings, k: int, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        k = check_query(self, queries, k)
        parts = [self._search(queries[start : start + _QUERIES], k) for start in range(0, len(queries), _QUERIES)]
        if not parts:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    def _search(self, queries: Embeddings, k: int) -> tuple[Rows, Embeddings]:
        rows = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        for start in range(0, self.count, _BLOCK):
            block = queries @ self._embeddings[start : start + _BLOCK].T
            numbers = np.arange(start, start + block.shape[1])
            rows, scores = _best(
                np.concatenate([rows, np.broadcast_to(numbers, block.shape)], axis=1),
                np.concatenate([scores, block], axis=1),
                k,
            )
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def tuned(self, parameters: IndexParameters) -> "ExactIndex":
        check_tuned(self.kind, IndexParameters("exact"), parameters)
        return self

    def save(self, folder: pathlib.Path) -> None:
        save_parameters(folder, IndexParameters("exact"), self.count, self.dimension)


def _best(rows: Rows, scores: Embeddings, k: int) -> tuple[Rows, Embeddings]:
    """Returns the k best of each line, in their order; of equals those that come first."""
    if scores.shape[1] <= k:
        return rows, scores
    bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    better, equal = scores > bar, scores == bar
    room = k - better.sum(axis=1, keepdims=True)
    chosen = better | (equal & (np.cumsum(equal, axis=1) <= room))
    return rows[chosen].reshape(-1, k), scores[chosen].reshape(-1, k)
