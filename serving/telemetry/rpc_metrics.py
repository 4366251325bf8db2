"""Requests by method and code, under the names of go-grpc-prometheus, so that dashboards made for it fit."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from serving.gateway.interception import Behavior, WrappingLayer
from serving.telemetry.codes import CODES, OK, code_of
from serving.telemetry.histogram import SECONDS, Histogram

_LABELS = ("grpc_type", "grpc_service", "grpc_method")


class RpcMetrics(WrappingLayer):
    """Counts the unary methods of a service. The outermost layer, to see what those refuse."""

    def __init__(self, service: str, methods: Iterable[str]) -> None:
        """service: its full name. methods: the names of its methods, each of which gets its series at once."""
        super().__init__(service, lambda name, behavior: self._methods[name].counting(behavior))
        self._service = service
        self._methods = {name: _Method(name) for name in methods}

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        started = CounterMetricFamily("grpc_server_started", "Requests that were begun.", labels=_LABELS)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Requests that were finished, by status code.", labels=(*_LABELS, "grpc_code")
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Seconds from a request's begin to its end.", labels=_LABELS
        )
        for method in self._methods.values():
            labels = ("unary", self._service, method.name)
            # First the ends, then the begins: whoever subtracts them must not see more ends.
            for code, count in zip(CODES, method.handled, strict=True):
                handled.add_metric((*labels, code), count)
            started.add_metric(labels, method.started)
            seconds.add_metric(labels, method.seconds.buckets(), method.seconds.sum)
        yield from (started, handled, seconds)


class _Method:
    def __init__(self, name: str) -> None:
        self.name = name
        self.started = 0
        self.handled = [0] * len(CODES)
        self.seconds = Histogram(SECONDS)

    def counting(self, behavior: Behavior) -> Behavior:
        async def run(request: Any, context: Any) -> Any:
            self.started += 1
            begun = time.perf_counter()
            code = OK
            try:
                return await behavior(request, context)
            except BaseException as error:
                code = code_of(error, context)
                raise
            finally:
                self.seconds.observe(time.perf_counter() - begun)
                self.handled[code] += 1

        return run
