"""The best of what an index proposed, by the stored embeddings."""

import numpy as np

from serving.index.index import Embeddings, Rows

_BLOCK = 4096  # embeddings gathered at a time: 1 MB of 64 dimensions


def rerank(
    embeddings: Embeddings, queries: Embeddings, rows: Rows, scores: Embeddings, k: int
) -> tuple[Rows, Embeddings]:
    """Returns the k best of each query's proposals by their dot products: rows and scores, `[Q, k]`, best first.

    embeddings: float32 `[N, D]`. queries: float32 `[Q, D]`. rows, scores: `[Q, C]`, C >= k, as the index saw them; NaN
    for a proposal that is none, which comes last.
    """
    products = np.empty(rows.shape, np.float32)
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        # Not a product by BLAS: its threads would fight with the other searches for the processors.
        np.einsum("qcd,qd->qc", embeddings.take(rows[block], axis=0), queries[block], out=products[block])
    products[np.isnan(scores)] = np.nan
    # NaN sorts behind everything.
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(products, order, axis=1)
