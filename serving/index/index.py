"""What every kind of index can do, and what it is asked with."""

import pathlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serving.index.parameters import IndexParameters

Embeddings = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Index(Protocol):
    """Proposes the nearest neighbours of a query. A row is a position in datapoint order, in [0, count)."""

    kind: str
    count: int
    dimension: int

    def search(self, queries: Embeddings, k: int, *, effort: int = 1) -> tuple[Rows, Embeddings]:
        """Returns the rows and scores of each query's neighbours, best first.

        Args:
          queries: float32 `[Q, D]`, of unit length.
          k: at least 1.
          effort: how many times as much to look at than usual, where an index looks at a part; at least 1.

        Returns:
          rows: int64 `[Q, min(k, count)]`, none twice in a query. scores: float32 of the same shape, the dot products
          as the index sees them; who needs them exactly computes them from the embeddings.
        """

    def tuned(self, parameters: IndexParameters) -> "Index":
        """Returns this index, searched by the `leaves_to_search` and `reorder` of other parameters.

        Nothing is built or copied. Raises ValueError where the parameters would need another index.
        """

    def save(self, folder: pathlib.Path) -> None:
        """Writes the index into a folder, without the embeddings; `load_index` finds it again wherever that moves."""


def check_query(index: Index, queries: Embeddings, k: int) -> int:
    """Returns k, capped by the index's count; raises ValueError for queries that are none of its own."""
    if queries.ndim != 2 or queries.shape[1] != index.dimension or queries.dtype != np.float32:
        raise ValueError(f"queries must be float32 [Q, {index.dimension}], got {queries.dtype} {queries.shape}.")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    return min(k, index.count)


def plain(embeddings: Embeddings) -> Embeddings:
    """Returns embeddings as a plain array, of which no kind of index copies more than it needs."""
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        raise ValueError(f"embeddings must be float32 [N, D], got {embeddings.dtype} {embeddings.shape}.")
    # A view without memmap's bookkeeping, which costs more than a small search.
    return np.ascontiguousarray(embeddings).view(np.ndarray)


def check_tuned(kind: str, built: IndexParameters, parameters: IndexParameters) -> None:
    """Raises ValueError where an index that was built with `built` can't be searched with `parameters`."""
    if not parameters.built_like(built):
        raise ValueError(f"the {kind} index was built with {built}, it can't be searched with {parameters}.")
