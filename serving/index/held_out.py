"""Held-out queries, and what exact search finds for them: what recall is measured against."""

import numpy as np
import numpy.typing as npt

from serving.index.exact import ExactIndex
from serving.index.index import Embeddings, Index, Rows, plain

RECALL_AT = 10
# Scores closer than this may have been computed in another order: they are the same.
_TOLERANCE = 1e-5


class HeldOut:
    """Q queries over N embeddings. rows: int64 `[Q]`, each query's own row, or None where they aren't among them.

    An item is left out of the answer to itself.
    """

    def __init__(self, embeddings: Embeddings, queries: Embeddings, rows: Rows | None = None) -> None:
        if not len(queries):
            raise ValueError("recall needs at least one query, got none.")
        self.queries = np.ascontiguousarray(queries)
        self._embeddings = plain(embeddings)
        self._rows = rows
        others = len(embeddings) - (rows is not None)
        self._k = min(RECALL_AT, others)
        self.asked = self._k + (rows is not None)
        if self._k:
            truth = self._scores(ExactIndex(embeddings).search(self.queries, self.asked)[0])
            self._floor = np.sort(truth, axis=1)[:, -self._k][:, np.newaxis] - _TOLERANCE

    def recall(self, index: Index) -> float:
        """Returns the mean recall@10 of an index over these embeddings, in [0, 1].

        Any item that is as near as the tenth true neighbour counts: among equals there is no right order.
        """
        if not self._k:
            return 1.0
        scores = self._scores(index.search(self.queries, self.asked)[0])
        found = (scores >= self._floor).sum(axis=1)
        return float(np.minimum(found, self._k).mean() / self._k)

    def _scores(self, rows: Rows) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = np.einsum("qkd,qd->qk", self._embeddings.take(rows, axis=0), self.queries)
        if self._rows is not None:
            scores[rows == self._rows[:, np.newaxis]] = -np.inf
        return scores
