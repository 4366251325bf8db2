"""The core: a query in, its nearest neighbours out. Knows neither gRPC nor protobuf.

D: the dimension of the release's embeddings.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from serving.release.items import Item
from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.embedding import Embedder
from serving.search.held import Held, Holding
from serving.search.query import Query, Vector, check_item_ids
from serving.search.results import BatchResult, EncodeResult, ItemsResult, SearchResult, Timings
from serving.search.spans import Span, no_span
from serving.search.view import Found, View
from serving.search.workers import Workers

# What takes no longer is done at once: handing it to a thread and back costs as much.
INLINE_SECONDS = 0.0005
INLINE_K = 100
T = TypeVar("T")


class Answer(NamedTuple):
    """What was found, the items of its rows, and for each the ids of those that were collapsed into it.

    coverage: see SearchResult.
    """

    found: Found
    items: Sequence[Any]
    named: Sequence[Sequence[str]]
    coverage: float = 1.0


class Retrieval:
    """Answers queries. Each takes its release once, at its start, and finishes on it."""

    def __init__(self, held: Held, embedder: Embedder, workers: Workers, span: Span = no_span) -> None:
        self._held = held
        self._embedder = embedder
        self._workers = workers
        self._span = span

    async def search(self, query: Query, deadline: Deadline) -> SearchResult:
        """Returns the `query.k` items most like the query, itself left out where it is an item."""
        with self._held.take(query.release_id) as holding:
            view, vector, decode, encode = holding.view, query.vector, 0.0, 0.0
            if query.image is not None:
                embedded = await self._embedder.embed([query.image], holding, deadline)
                vector, decode, encode = raised(embedded.outcomes[0]), embedded.decode, embedded.encode
            begun = time.perf_counter()
            with self._span("search"):
                answer = await self._answer(query, vector, view, holding, deadline)
            return to_result(answer, holding, Timings(decode, encode, time.perf_counter() - begun))

    async def batch_search(
        self, queries: Sequence[Query | Exception], deadline: Deadline, *, release_id: str = ""
    ) -> BatchResult:
        """Returns the outcome of each query, all from one release; its images are encoded in one call.

        An exception in the place of a query is its outcome.
        """
        with self._held.take(release_id) as holding:
            view = holding.view
            vectors = [query if isinstance(query, Exception) else query.vector for query in queries]
            images = {
                i: query.image
                for i, query in enumerate(queries)
                if isinstance(query, Query) and query.image is not None
            }
            embedded = await self._embedder.embed(list(images.values()), holding, deadline)
            for i, outcome in zip(images, embedded.outcomes, strict=True):
                vectors[i] = outcome
            begun = time.perf_counter()
            with self._span("search"):
                outcomes = await self._outcomes(queries, vectors, view, holding, deadline)
            timings = Timings(embedded.decode, embedded.encode, time.perf_counter() - begun)
            return BatchResult(outcomes, holding.release_id, _encoder_version(holding), timings)

    async def encode(self, image: bytes, deadline: Deadline, *, release_id: str = "") -> EncodeResult:
        """Returns the embedding of an image file."""
        with self._held.take(release_id) as holding:
            embedded = await self._embedder.embed([image], holding, deadline)
            return EncodeResult(raised(embedded.outcomes[0]), holding.release_id, _encoder_version(holding))

    async def get_items(
        self, item_ids: list[str], deadline: Deadline, *, thumbnails: bool, release_id: str = ""
    ) -> ItemsResult:
        """Returns items of a release."""
        check_item_ids(item_ids)
        with self._held.take(release_id) as holding:
            items = await self._run(holding, deadline, lambda: _items(holding.view, item_ids, thumbnails))
            return ItemsResult(items, holding.release_id)

    async def get_item(self, item_id: str, deadline: Deadline, *, thumbnail: bool, release_id: str = "") -> ItemsResult:
        """Returns one item of a release; raises ItemNotFound."""
        result = await self.get_items([item_id], deadline, thumbnails=thumbnail, release_id=release_id)
        if result.items == [None]:
            raise errors.ItemNotFound(item_id, result.release_id)
        return result

    async def _answer(
        self, query: Query, vector: Vector | None, view: View[Any], holding: Holding, deadline: Deadline
    ) -> Answer:
        if vector is None or not query.plain or query.k > INLINE_K or view.seconds > INLINE_SECONDS:
            return await self._run(holding, deadline, lambda: _answer(query, vector, view, holding))
        deadline.left()
        found = view.find(unit_of(vector, query, holding), query, None)
        items = view.cached(found.rows)
        if items is None:
            items = await self._run(holding, deadline, lambda: view.load(found.rows))
        return Answer(found, items, ())

    async def _outcomes(
        self,
        queries: Sequence[Query | Exception],
        vectors: Sequence[Vector | Exception | None],
        view: View[Any],
        holding: Holding,
        deadline: Deadline,
    ) -> list[SearchResult | Exception]:
        outcomes = _at_once(queries, vectors, view, holding)
        if outcomes is None:
            return await self._run(holding, deadline, lambda: _outcomes(queries, vectors, view, holding, deadline))
        deadline.left()
        return outcomes

    async def _run(self, holding: Holding, deadline: Deadline, function: Callable[[], T]) -> T:
        # The thread is a user of its own: it may still search when the request has long been given up.
        return await self._workers.run(function, deadline=deadline, finally_=holding.retain().drop)


def _answer(query: Query, vector: Vector | None, view: View[Any], holding: Holding) -> Answer:
    """Returns what is found for a query by item id, or else for `vector`. Reads the disk."""
    row = None
    if query.item_id is not None:
        row = view.rows_of([query.item_id]).get(query.item_id)
        if row is None:
            raise errors.ItemNotFound(query.item_id, holding.release_id)
        vector = view.vectors(np.array([row]))[0]
    found = view.find(unit_of(vector, query, holding), query, row)
    named = [[item.item_id for item in view.items(rows)] for _, rows in found.collapsed]
    return Answer(found, view.load(found.rows), named)


def _at_once(
    queries: Sequence[Query | Exception],
    vectors: Sequence[Vector | Exception | None],
    view: View[Any],
    holding: Holding,
) -> list[SearchResult | Exception] | None:
    """Returns the outcomes of a few queries that take no longer than a thread's handing over; None of all others."""
    if len(queries) * view.seconds > INLINE_SECONDS:
        return None
    units: list[tuple[int, Vector]] = []
    for query, vector in zip(queries, vectors, strict=True):
        if not isinstance(query, Query) or not query.plainest or query.k > INLINE_K:
            return None
        if not isinstance(vector, np.ndarray):
            return None
        try:
            units.append((query.k, unit_of(vector, query, holding)))
        except errors.RetrievalError:
            # What is wrong with it is said where it is asked for by itself.
            return None
    outcomes: list[SearchResult | Exception] = []
    for k, group in itertools.groupby(units, key=lambda pair: pair[0]):
        for found in view.find_each(np.stack([unit for _, unit in group]), k):
            items = view.cached(found.rows)
            if items is None:
                return None
            outcomes.append(to_result(Answer(found, items, ()), holding, None))
    return outcomes


def _outcomes(
    queries: Sequence[Query | Exception],
    vectors: Sequence[Vector | Exception | None],
    view: View[Any],
    holding: Holding,
    deadline: Deadline,
) -> list[SearchResult | Exception]:
    answered = _together(queries, vectors, view, holding, deadline)
    outcomes: list[SearchResult | Exception] = []
    for number, (query, vector) in enumerate(zip(queries, vectors, strict=True)):
        deadline.left()
        if isinstance(query, Exception) or isinstance(vector, Exception):
            outcomes.append(query if isinstance(query, Exception) else vector)  # type: ignore[arg-type]
            continue
        try:
            answer = answered.get(number) or _answer(query, vector, view, holding)
            outcomes.append(to_result(answer, holding, None))
        except Exception as error:
            # Whatever it is, it is this query's alone.
            outcomes.append(error)
    return outcomes


def _together(
    queries: Sequence[Query | Exception],
    vectors: Sequence[Vector | Exception | None],
    view: View[Any],
    holding: Holding,
    deadline: Deadline,
) -> dict[int, Answer]:
    """Returns the answers of those queries, by number, that can be asked for at once."""
    units: dict[int, dict[int, Vector]] = {}
    for number, (query, vector) in enumerate(zip(queries, vectors, strict=True)):
        if isinstance(query, Query) and query.plainest and not isinstance(vector, Exception):
            # What is wrong with it is said where it is asked for by itself.
            with contextlib.suppress(errors.RetrievalError):
                units.setdefault(query.k, {})[number] = unit_of(vector, query, holding)
    answers: dict[int, Answer] = {}
    try:
        for k, asked in units.items():
            deadline.left()
            found = view.find_each(np.stack(list(asked.values())), k)
            items = iter(view.load([row for each in found for row in each.rows]))
            answers |= {
                number: Answer(each, [next(items) for _ in each.rows], ())
                for number, each in zip(asked, found, strict=True)
            }
    except errors.DeadlineExceeded:
        raise
    except Exception:
        # One of them is to blame: asked one by one, it is found.
        return {}
    return answers


def _items(view: View[Any], item_ids: Sequence[str], thumbnails: bool) -> list[Item | None]:
    rows = view.rows_of(item_ids)
    found = dict(zip(rows, view.items(list(rows.values()), thumbnails=thumbnails), strict=True))
    return [found.get(item_id) for item_id in item_ids]


def to_result(answer: Answer, holding: Holding, timings: Timings | None) -> SearchResult:
    """Returns what is answered. timings: None in a batch."""
    found, items, named, coverage = answer
    collapsed = [count for count, _ in found.collapsed]
    version = _encoder_version(holding)
    return SearchResult(
        *(items, found.scores, collapsed, named, holding.release_id, version, found.method, found.matching, timings),
        coverage,
    )


def _encoder_version(holding: Holding) -> int:
    return holding.release.manifest.encoder.version


def raised(outcome: T | Exception) -> T:
    """Returns an outcome that is none of the errors; raises one that is."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def unit_of(vector: Vector | None, query: Query, holding: Holding) -> Vector:
    """Returns the vector of a query, float32 `[D]`, with length 1; raises InvalidQuery, EncoderFault."""
    assert vector is not None, "a query has an image, an id or a vector"
    dimension = holding.release.manifest.encoder.dimension
    try:
        if len(vector) != dimension:
            raise ValueError(f"vector must have {dimension} values, got {len(vector)}.")
        return holding.release.unit(vector)
    except ValueError as error:
        if query.image is not None:
            raise errors.EncoderFault(f"encoder's embedding is none: {error}") from error
        raise errors.InvalidQuery("vector", str(error)) from error
