"""OpenTelemetry traces: a span for each request and its steps, and on through the call to the encoder.

Callers that send a W3C `traceparent` see the request in their own trace; the encoder is sent one in turn. Of requests
without one a share is traced.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Container
from contextlib import AbstractContextManager
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.gateway.interception import Behavior, Layer, WrappingLayer
from serving.telemetry.codes import CANCELED, OK, code_of

_SERVICE_NAME = "lookalike-gateway"
_LAST_SECONDS = 5.0
_PROPAGATOR = TraceContextTextMapPropagator()
# The codes that are an error of a call; and of a request those that are the server's fault, by OpenTelemetry's
# conventions: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
_ERRORS = range(1, 17)
_FAULTS = (2, 4, 12, 13, 14, 15)


class Tracing:
    """What traces a gateway. provider: keeps or exports the spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("lookalike")

    @classmethod
    def to(cls, endpoint: str, rate: float) -> "Tracing":
        """Returns one that sends spans to an OTLP collector (gRPC), such as http://127.0.0.1:4317.

        rate: the share of requests that are traced where the caller hasn't decided, in [0, 1].
        """
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(rate)), resource=Resource.create({"service.name": _SERVICE_NAME})
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider)

    def span(self, name: str) -> AbstractContextManager[object]:
        """Returns a step of the current request; see serving.search.spans."""
        return self._tracer.start_as_current_span(name, record_exception=False)

    def server_layer(self, service: str) -> Layer:
        """Returns what makes a span of each request to a service."""
        return WrappingLayer(service, lambda name, behavior: self._traced(service, name, behavior))

    def client_interceptor(self) -> grpc.aio.UnaryUnaryClientInterceptor:
        """Returns what makes a span of each call that belongs to a request, and sends its `traceparent` along."""
        return _ClientInterceptor(self._tracer)

    async def close(self) -> None:
        """Sends what is left, for some seconds at most."""
        # A thread that nobody waits for at exit: the collector may be gone.
        thread = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        thread.start()
        end = asyncio.get_running_loop().time() + _LAST_SECONDS
        while thread.is_alive() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)

    def _traced(self, service: str, name: str, behavior: Behavior) -> Behavior:
        attributes = _attributes(service, name)

        async def run(request: Any, context: Any) -> Any:
            parent = _PROPAGATOR.extract(dict(context.invocation_metadata() or ()))
            with self._tracer.start_as_current_span(
                f"{service}/{name}",
                context=parent,
                kind=trace.SpanKind.SERVER,
                attributes=attributes,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                code = OK
                try:
                    return await behavior(request, context)
                except BaseException as error:
                    code = code_of(error, context)
                    raise
                finally:
                    _end(span, code, _FAULTS)

        return run


class _ClientInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    async def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        """Sends the call, with a span around it."""
        # Whether the encoder is there is asked all the time, and by nobody's request.
        if not trace.get_current_span().get_span_context().is_valid:
            return await continuation(details, request)
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        service, _, name = method.removeprefix("/").rpartition("/")
        with self._tracer.start_as_current_span(
            f"{service}/{name}",
            kind=trace.SpanKind.CLIENT,
            attributes=_attributes(service, name),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            carrier: dict[str, str] = {}
            _PROPAGATOR.inject(carrier)
            metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
            call = await continuation(details._replace(metadata=metadata), request)
            try:
                code = (await call.code()).value[0]
            except asyncio.CancelledError:
                # Nobody else would: the call is known to us alone until we return it.
                call.cancel()
                _end(span, CANCELED, _ERRORS)
                raise
            _end(span, code, _ERRORS)
            return call


def _attributes(service: str, name: str) -> dict[str, str]:
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def _end(span: trace.Span, code: int, faults: Container[int]) -> None:
    span.set_attribute("rpc.grpc.status_code", code)
    if code in faults:
        span.set_status(trace.StatusCode.ERROR)
