"""Answers a root from the shards that this process holds."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from serving.release.share import Share
from serving.search import errors
from serving.search.changes import Changed, ItemDelete, ItemUpsert
from serving.search.deadline import Deadline
from serving.search.held import Held, Holding
from serving.search.leaf import LeafItem, LeafQuery, LeafResult, LeafStatus
from serving.search.retrieval import INLINE_K, INLINE_SECONDS
from serving.search.updates import Updates
from serving.search.view import MOST_EXAMINED, Found, View, Wanted
from serving.search.workers import Workers

# What several queries at once may take where they aren't handed to a thread.
_INLINE_TOGETHER_SECONDS = 4 * INLINE_SECONDS
T = TypeVar("T")


class LeafSearch:
    """A Leaf over what is held. Each call takes its release once, at its start, and finishes on it."""

    def __init__(self, held: Held, workers: Workers, share: Share, updates: Updates) -> None:
        """share: which shards the releases in `held` were loaded with. updates: of items that belong to them."""
        self._updates = updates
        self._held = held
        self._workers = workers
        self._share = share
        self._ending = False

    def check_share(self, share: Share) -> None:
        """Raises WrongShare where a root takes this for another leaf."""
        if share != self._share:
            raise errors.WrongShare(f"this leaf holds the share {self._share}, and was asked as {share}.")

    def end(self) -> None:
        """Says from now on that it holds nothing, so that nobody asks; who does nevertheless is answered."""
        self._ending = True

    async def search(self, queries: Sequence[LeafQuery], *, release_id: str, timeout: float) -> list[LeafResult]:
        """See Leaf. Raises InvalidQuery."""
        deadline = Deadline(timeout)
        with self._held.take(release_id) as holding:
            view = holding.view
            for query in queries:
                _check(query, holding)
            if _inline(queries, view):
                # To hand it to a thread and back would cost as much.
                deadline.left()
                if len(queries) == 1:
                    each = [view.find(queries[0].vector, Wanted(queries[0].k), None)]
                else:
                    each = view.find_each(np.stack([query.vector for query in queries]), queries[0].k)
                rows = [row for found in each for row in found.rows]
                items = view.cached(rows)
                if items is None:
                    items = await self._run(holding, deadline, lambda: view.load(rows))
                return _shared_out(each, items)
            return await self._run(holding, deadline, lambda: _results(queries, view, deadline))

    async def items(
        self, item_ids: Sequence[str], *, release_id: str, thumbnails: bool, embeddings: bool, timeout: float
    ) -> list[LeafItem | None]:
        """See Leaf."""
        deadline = Deadline(timeout)
        with self._held.take(release_id) as holding:
            return await self._run(
                holding, deadline, lambda: _items(holding.view, item_ids, thumbnails=thumbnails, embeddings=embeddings)
            )

    async def upsert(self, items: Sequence[ItemUpsert | Exception], *, timeout: float) -> list[Changed | Exception]:
        """See Leaf; an exception in the place of an item is its outcome."""
        return await self._updates.batch_upsert(items, Deadline(timeout))

    async def delete(self, items: Sequence[ItemDelete | Exception], *, timeout: float) -> list[Changed | Exception]:
        """As upsert."""
        return await self._updates.batch_delete(items, Deadline(timeout))

    async def status(self, *, timeout: float) -> LeafStatus:
        """See Leaf."""
        if self._ending:
            return LeafStatus(self._share, frozenset())
        try:
            with self._held.take() as holding:
                held, brief = {holding.release_id}, holding.view.seconds <= INLINE_SECONDS
        except errors.NoRelease:
            return LeafStatus(self._share, frozenset())
        held |= {release.manifest.release_id for release in self._held.kept}
        return LeafStatus(self._share, frozenset(held), brief)

    async def _run(self, holding: Holding, deadline: Deadline, function: Callable[[], T]) -> T:
        # The thread is a user of its own: it may still search when the request has long been given up.
        return await self._workers.run(function, deadline=deadline, finally_=holding.retain().drop)


def _inline(queries: Sequence[LeafQuery], view: View[Any]) -> bool:
    k = queries[0].k if queries else 0
    return (
        view.seconds <= INLINE_SECONDS
        and len(queries) * view.seconds <= _INLINE_TOGETHER_SECONDS
        and 1 <= k <= INLINE_K
        and all(query.plain and query.k == k for query in queries)
    )


def _check(query: LeafQuery, holding: Holding) -> None:
    dimension = holding.release.manifest.encoder.dimension
    if query.vector.shape != (dimension,):
        raise errors.InvalidQuery("vector", f"vector must have {dimension} values, got {query.vector.shape}.")
    if not np.isfinite(query.vector).all():
        raise errors.InvalidQuery("vector", "vector must be finite.")
    if not 1 <= query.k <= MOST_EXAMINED:
        raise errors.InvalidQuery("k", f"k must be in [1, {MOST_EXAMINED}], got {query.k}.")


def _results(queries: Sequence[LeafQuery], view: View[Any], deadline: Deadline) -> list[LeafResult]:
    """Reads the disk."""
    results: list[LeafResult | None] = [None] * len(queries)
    together: dict[int, list[int]] = {}
    for number, query in enumerate(queries):
        if query.plain:
            together.setdefault(query.k, []).append(number)
    for k, numbers in together.items():
        deadline.left()
        each = view.find_each(np.stack([queries[number].vector for number in numbers]), k)
        items = view.load([row for found in each for row in found.rows])
        for number, result in zip(numbers, _shared_out(each, items), strict=True):
            results[number] = result
    for number, query in enumerate(queries):
        if not query.plain:
            deadline.left()
            row = view.rows_of([query.exclude]).get(query.exclude) if query.exclude else None
            found = view.find(query.vector, Wanted(query.k, query.min_score, query.filter), row)
            embeddings = view.vectors(np.array(found.rows, np.int64)) if query.embeddings else None
            results[number] = _result(found, view.load(found.rows), embeddings)
    return [result for result in results if result is not None]


def _shared_out(each: Sequence[Found], items: Sequence[Any]) -> list[LeafResult]:
    """Returns the result of each query. items: of all, one after the other."""
    left = iter(items)
    return [_result(found, [next(left) for _ in found.rows], None) for found in each]


def _result(found: Found, items: Sequence[Any], embeddings: Any) -> LeafResult:
    return LeafResult(items, np.array(found.scores, np.float32), found.method, found.matching, embeddings)


def _items(view: View[Any], item_ids: Sequence[str], *, thumbnails: bool, embeddings: bool) -> list[LeafItem | None]:
    rows = view.rows_of(item_ids)
    numbers = list(rows.values())
    vectors = view.vectors(np.array(numbers, np.int64)) if embeddings else [None] * len(numbers)
    items = view.items(numbers, thumbnails=thumbnails)
    found = {name: LeafItem(*pair) for name, pair in zip(rows, zip(items, vectors, strict=True), strict=True)}
    return [found.get(item_id) for item_id in item_ids]
