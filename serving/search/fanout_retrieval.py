"""Retrieval of a root: what needs the index is asked of the leaves, all else is as in one process."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.search import errors
from serving.search.collapse import Content, Owners, collapse, collapse_groups
from serving.search.deadline import Deadline
from serving.search.embedding import Embedder
from serving.search.fanout import FanOut
from serving.search.held import Held, Holding
from serving.search.leaf import LeafQuery, LeafResult
from serving.search.merge import merge
from serving.search.query import Query, Vector, check_item_ids
from serving.search.results import ItemsResult, SearchResult
from serving.search.retrieval import Answer, Retrieval, raised, to_result, unit_of
from serving.search.spans import Span, no_span
from serving.search.view import MOST_EXAMINED, MOST_NAMED, Found
from serving.search.workers import Workers


class FanOutRetrieval(Retrieval):
    """Answers queries from leaves. The releases in `held` have no shard loaded: they say what is to be asked for."""

    def __init__(
        self,
        held: Held,
        embedder: Embedder,
        workers: Workers,
        span: Span = no_span,
        *,
        fan_out: FanOut,
        content_of: Callable[[Any], tuple[str, Content]],
        finish: Callable[[Any], Any] = lambda item: item,
    ) -> None:
        """content_of: the id and the content of an item as leaves render it. finish: makes of it what answers hold."""
        super().__init__(held, embedder, workers, span)
        self._fan_out = fan_out
        self._content_of = content_of
        self._finish = finish

    async def get_items(
        self, item_ids: list[str], deadline: Deadline, *, thumbnails: bool, release_id: str = ""
    ) -> ItemsResult:
        """See Retrieval. Raises LeafUnavailable where a leaf that would have one of them is away."""
        check_item_ids(item_ids)
        with self._held.take(release_id) as holding:
            found = await self._fan_out.items(
                item_ids, holding.release.manifest, deadline, thumbnails=thumbnails, embeddings=False
            )
            items = [raised(outcome) for outcome in found]
            return ItemsResult([item and item.item for item in items], holding.release_id)

    async def _answer(
        self, query: Query, vector: Vector | None, view: Any, holding: Holding, deadline: Deadline
    ) -> Answer:
        if query.item_id is not None:
            [vector] = [raised(v) for v in await self._vectors_of([query.item_id], holding, deadline)]
        return await self._search(query, unit_of(vector, query, holding), holding, deadline)

    async def _outcomes(
        self,
        queries: Sequence[Query | Exception],
        vectors: Sequence[Vector | Exception | None],
        view: Any,
        holding: Holding,
        deadline: Deadline,
    ) -> list[SearchResult | Exception]:
        outcomes: list[Any] = [q if isinstance(q, Exception) else v for q, v in zip(queries, vectors, strict=True)]
        asked = {n: q for n, q in enumerate(queries) if isinstance(q, Query) and not isinstance(vectors[n], Exception)}
        by_id = {number: query.item_id for number, query in asked.items() if query.item_id is not None}
        if by_id:
            found = await self._vectors_of(list(by_id.values()), holding, deadline)
            for number, outcome in zip(by_id, found, strict=True):
                outcomes[number] = outcome
        units: dict[int, Vector] = {}
        for number, query in asked.items():
            if not isinstance(outcomes[number], Exception):
                try:
                    units[number] = unit_of(outcomes[number], query, holding)
                except errors.RetrievalError as error:
                    outcomes[number] = error
        together = [number for number in units if not _collapses(asked[number])]
        if together:
            searched = await self._search_together([(asked[n], units[n]) for n in together], holding, deadline)
            for number, result in zip(together, searched, strict=True):
                outcomes[number] = result
        for number in units.keys() - set(together):
            # One after the other: a batch must not take all of the leaves' threads.
            try:
                answer = await self._search(asked[number], units[number], holding, deadline)
                outcomes[number] = to_result(answer, holding, None)
            except errors.DeadlineExceeded:
                raise
            except Exception as error:
                outcomes[number] = error
        return outcomes

    async def _search_together(
        self, asked: Sequence[tuple[Query, Vector]], holding: Holding, deadline: Deadline
    ) -> Sequence[SearchResult | Exception]:
        queries = [_leaf_query(query, unit, query.k) for query, unit in asked]
        try:
            gathered = await self._fan_out.search(queries, holding.release.manifest, deadline)
        except errors.DeadlineExceeded:
            raise
        except errors.RetrievalError as error:
            return [error] * len(asked)
        merged = [self._merged(each, query.k) for (query, _), *each in zip(asked, *gathered.results, strict=True)]
        return [to_result(self._answer_of(found, gathered.coverage), holding, None) for found in merged]

    async def _vectors_of(
        self, item_ids: Sequence[str], holding: Holding, deadline: Deadline
    ) -> list[Vector | Exception]:
        found = await self._fan_out.items(
            item_ids, holding.release.manifest, deadline, thumbnails=False, embeddings=True
        )
        vectors: list[Vector | Exception] = []
        for item_id, outcome in zip(item_ids, found, strict=True):
            if isinstance(outcome, Exception):
                vectors.append(outcome)
            elif outcome is None or outcome.embedding is None:
                vectors.append(errors.ItemNotFound(item_id, holding.release_id))
            else:
                vectors.append(outcome.embedding)
        return vectors

    async def _search(self, query: Query, unit: Vector, holding: Holding, deadline: Deadline) -> Answer:
        manifest = holding.release.manifest
        if not _collapses(query):
            gathered = await self._fan_out.search([_leaf_query(query, unit, query.k)], manifest, deadline)
            return self._answer_of(self._merged([each for [each] in gathered.results], query.k), gathered.coverage)
        # As serving.search.view does it: more and more, until so many are distinct.
        n = 2 * (query.k + 1) + 16
        while True:
            gathered = await self._fan_out.search([_leaf_query(query, unit, n)], manifest, deadline)
            merged = self._merged([each for [each] in gathered.results], n)
            owners = self._owners(query, merged)
            if len(owners) < len(merged.items) or len(merged.items) < n or n >= MOST_EXAMINED:
                return self._distinct(merged, owners, gathered.coverage)
            n = min(4 * n, MOST_EXAMINED)

    def _merged(self, results: Sequence[LeafResult], k: int) -> LeafResult:
        return merge(results, k, lambda item: self._content_of(item)[0])

    def _owners(self, query: Query, merged: LeafResult) -> Owners:
        if query.collapse_groups:
            return collapse_groups([self._content_of(item)[1] for item in merged.items], query.k)
        if merged.embeddings is None:
            # Where nothing is found there are none.
            return np.empty(0, np.int64)
        return collapse(merged.embeddings, query.collapse_score or 1.0, query.k)

    def _distinct(self, merged: LeafResult, owners: Owners, coverage: float) -> Answer:
        leaders = np.flatnonzero(owners == np.arange(len(owners))).tolist()
        followers: dict[int, list[int]] = {leader: [] for leader in leaders}
        for place, owner in enumerate(owners.tolist()):
            if place != owner:
                followers[owner].append(place)
        # Places take the place of rows, which a root has none of.
        collapsed = [(len(followers[leader]), followers[leader][:MOST_NAMED]) for leader in leaders]
        found = Found([], merged.scores[leaders].tolist(), merged.method, merged.matching, collapsed)
        named = [[self._content_of(merged.items[place])[0] for place in places] for _, places in collapsed]
        return Answer(found, [self._finish(merged.items[leader]) for leader in leaders], named, coverage)

    def _answer_of(self, merged: LeafResult, coverage: float) -> Answer:
        found = Found([], merged.scores.tolist(), merged.method, merged.matching)
        return Answer(found, [self._finish(item) for item in merged.items], (), coverage)


def _collapses(query: Query) -> bool:
    return query.collapse_groups or query.collapse_score is not None


def _leaf_query(query: Query, unit: Vector, k: int) -> LeafQuery:
    return LeafQuery(
        unit, k, query.min_score, query.filter, query.item_id or "", embeddings=query.collapse_score is not None
    )
