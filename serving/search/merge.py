"""Results of several leaves made one: pure functions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.search.leaf import LeafResult
from serving.search.view import Method

# How a merged answer was found is how the least exact of its parts was.
_EXACTNESS = (Method.EXACT, Method.INDEX, Method.EXACT_FILTERED, Method.INDEX_FILTERED)


def merge(results: Sequence[LeafResult], k: int, id_of: Callable[[Any], str]) -> LeafResult:
    """Returns the k best of all results, ties by item id; at least one result, all of one query.

    id_of: the id of a rendered item; asked only where scores are equal.
    """
    if len(results) == 1:
        [result] = results
        embeddings = None if result.embeddings is None else result.embeddings[:k]
        return result._replace(items=result.items[:k], scores=result.scores[:k], embeddings=embeddings)
    scores = np.concatenate([result.scores for result in results])
    items = [item for result in results for item in result.items]
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # One more than is wanted: it may tie with the last one.
    if (ranked[1 : k + 1] == ranked[:-1][:k]).any():
        tied = set(ranked[1:][ranked[1:] == ranked[:-1]].tolist())
        ids = {place: id_of(items[place]) for place, score in enumerate(scores.tolist()) if score in tied}
        order = np.array(sorted(order.tolist(), key=lambda place: (-scores[place], ids.get(place, ""))))
    order = order[:k]
    vectors = [result.embeddings for result in results if result.embeddings is not None]
    counts = [result.matching for result in results if result.matching is not None]
    return LeafResult(
        [items[place] for place in order.tolist()],
        scores[order],
        max((result.method for result in results), key=_EXACTNESS.index),
        sum(counts) if counts else None,
        np.concatenate(vectors)[order] if vectors else None,
    )
