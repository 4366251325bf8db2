"""The threads that decode and search: how many are busy, what waits for them, and how long."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.workers import Workers
from serving.telemetry.histogram import SECONDS, Histogram

T = TypeVar("T")


class MeteredWorkers(Workers):
    """Workers that count what they do."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """arguments, options: those of Workers."""
        super().__init__(*arguments, **options)
        self._wait = Histogram(SECONDS)
        self._refused = 0
        # Jobs that are waiting or at work; they end in any thread.
        self._jobs = 0
        self._lock = threading.Lock()

    async def run(
        self,
        function: Callable[..., T],
        *arguments: Any,
        deadline: Deadline,
        finally_: Callable[[], None] = lambda: None,
    ) -> T:
        """See Workers. What DeadlineExceeded says of work under way is true of this job."""
        queued = time.perf_counter()
        begun = 0.0

        def begin(*given: Any) -> T:
            nonlocal begun
            begun = time.perf_counter()
            return function(*given)

        def end() -> None:
            self._count(-1)
            finally_()

        self._count(1)
        try:
            return await super().run(begin, *arguments, deadline=deadline, finally_=end)
        except errors.Overloaded:
            self._refused += 1
            raise
        except errors.DeadlineExceeded as error:
            if not begun:
                error.begun = False
            raise
        finally:
            self._wait.observe((begun or time.perf_counter()) - queued)

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        jobs = self._jobs
        busy = min(jobs, self.threads)
        yield GaugeMetricFamily("lookalike_worker_threads", "Threads that decode and search.", self.threads)
        yield GaugeMetricFamily("lookalike_workers_busy", "Threads at work.", busy)
        yield GaugeMetricFamily("lookalike_workers_waiting", "Jobs that wait for a thread.", jobs - busy)
        yield HistogramMetricFamily(
            "lookalike_workers_wait_seconds",
            "Seconds that jobs waited for a thread.",
            buckets=self._wait.buckets(),
            sum_value=self._wait.sum,
        )
        yield CounterMetricFamily(
            "lookalike_workers_refused", "Jobs refused because the queue was full.", self._refused
        )

    def _count(self, jobs: int) -> None:
        with self._lock:
            self._jobs += jobs
