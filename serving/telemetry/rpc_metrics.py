"""Requests by method and code, under the names of go-grpc-prometheus, so that dashboards made for it fit."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import grpc
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from serving.telemetry.codes import CODES, OK, code_of
from serving.telemetry.histogram import SECONDS, Histogram

_LABELS = ("grpc_type", "grpc_service", "grpc_method")


class RpcMetrics(grpc.aio.ServerInterceptor):
    """Counts the unary methods of a service. Goes before every other interceptor, to see what those refuse."""

    def __init__(self, service: str, methods: Iterable[str]) -> None:
        """service: its full name. methods: the names of its methods; nothing else gets a series."""
        self._service = service
        self._methods = {f"/{service}/{name}": _Method(name) for name in methods}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Returns the method's handler, wrapped."""
        handler = await continuation(details)
        method = self._methods.get(details.method)
        return handler if method is None or handler is None else method.wrapped(handler)

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
        # What refuses a request unread is a handler, too.
        self._known: tuple[Any, Any] = (None, None)
        self._known_refusing: tuple[Any, Any] = (None, None)

    def wrapped(self, handler: Any) -> Any:
        # gRPC asks for the handler at every call, and to wrap it anew each time would cost more than to count.
        if handler.unary_unary is None:
            if self._known_refusing[0] is not handler:
                counting = grpc.stream_unary_rpc_method_handler(self._counting(handler.stream_unary))
                self._known_refusing = handler, counting
            return self._known_refusing[1]
        if self._known[0] is not handler:
            counting = grpc.unary_unary_rpc_method_handler(
                self._counting(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
            self._known = handler, counting
        return self._known[1]

    def _counting(self, behavior: Callable[[Any, Any], Awaitable[Any]]) -> Any:
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
