"""What becomes of queries: seconds by step, sizes of batches, deadlines, and the scores of what was found."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.query import Query
from serving.search.results import BatchResult, EncodeResult, ItemsResult, SearchResult
from serving.search.retrieval import Retrieval
from serving.search.view import Method
from serving.telemetry.histogram import SECONDS, SIZES, Histogram

Scored = Callable[[str, float], None]


class QueryMetrics:
    """Counts answers and failures; see docs/monitoring.md. Belongs to the event loop's thread."""

    def __init__(self, scored: Scored) -> None:
        """scored: told the release and the best score of each query whose score says something of drift."""
        self._scored = scored
        self._decode = Histogram(SECONDS)
        # By name, since an enum's member takes as long to hash as all the rest.
        self._search = {method.name: Histogram(SECONDS) for method in Method}
        self._batch_search = Histogram(SECONDS)
        self._batch_sizes = Histogram(SIZES)
        self._late = {True: 0, False: 0}

    def answered(self, query: Query, result: SearchResult) -> None:
        """Counts an answer."""
        timings = result.timings
        if timings is not None:
            if query.image is not None:
                self._decode.observe(timings.decode)
            self._search[result.method._name_].observe(timings.search)
        # An item's neighbours say nothing of queries, and what a filter leaves is farther away than what there is.
        if query.item_id is None and query.filter is None and result.scores:
            self._scored(result.release_id, result.scores[0])

    def answered_batch(self, queries: Sequence[Query | Exception], result: BatchResult) -> None:
        """Counts a batch of answers."""
        self._batch_sizes.observe(len(queries))
        if result.timings.decode:
            self._decode.observe(result.timings.decode)
        self._batch_search.observe(result.timings.search)
        for query, outcome in zip(queries, result.outcomes, strict=True):
            if isinstance(query, Query) and isinstance(outcome, SearchResult):
                self.answered(query, outcome)

    def late(self, error: errors.DeadlineExceeded) -> None:
        """Counts a request whose deadline has passed."""
        self._late[error.begun] += 1

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        yield _histogram("lookalike_decode_seconds", "Seconds to make a request's images canonical.", self._decode)
        search = HistogramMetricFamily(
            "lookalike_search_seconds", "Seconds to find a query's neighbours and read them.", labels=["method"]
        )
        for name, seconds in self._search.items():
            search.add_metric([name.lower()], seconds.buckets(), seconds.sum)
        yield search
        yield _histogram("lookalike_batch_search_seconds", "Seconds to search for a whole batch.", self._batch_search)
        yield _histogram("lookalike_batch_queries", "Queries in a BatchSearch.", self._batch_sizes)
        late = CounterMetricFamily(
            "lookalike_deadlines_passed",
            "Requests whose deadline passed, and whether work was under way.",
            labels=["begun"],
        )
        for begun, count in self._late.items():
            late.add_metric([str(begun).lower()], count)
        yield late


class MeteredRetrieval(Retrieval):
    """Retrieval that counts what it does."""

    def __init__(self, *arguments: Any, metrics: QueryMetrics, **options: Any) -> None:
        """arguments, options: those of Retrieval."""
        super().__init__(*arguments, **options)
        self._metrics = metrics

    async def search(self, query: Query, deadline: Deadline) -> SearchResult:
        """See Retrieval."""
        try:
            result = await super().search(query, deadline)
        except errors.DeadlineExceeded as error:
            self._metrics.late(error)
            raise
        self._metrics.answered(query, result)
        return result

    async def batch_search(
        self, queries: Sequence[Query | Exception], deadline: Deadline, *, release_id: str = ""
    ) -> BatchResult:
        """See Retrieval."""
        try:
            result = await super().batch_search(queries, deadline, release_id=release_id)
        except errors.DeadlineExceeded as error:
            self._metrics.late(error)
            raise
        self._metrics.answered_batch(queries, result)
        return result

    async def encode(self, image: bytes, deadline: Deadline, *, release_id: str = "") -> EncodeResult:
        """See Retrieval."""
        try:
            return await super().encode(image, deadline, release_id=release_id)
        except errors.DeadlineExceeded as error:
            self._metrics.late(error)
            raise

    async def get_items(
        self, item_ids: list[str], deadline: Deadline, *, thumbnails: bool, release_id: str = ""
    ) -> ItemsResult:
        """See Retrieval."""
        try:
            return await super().get_items(item_ids, deadline, thumbnails=thumbnails, release_id=release_id)
        except errors.DeadlineExceeded as error:
            self._metrics.late(error)
            raise


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.sum)
