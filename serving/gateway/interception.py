"""Interceptors that wrap the unary methods of a service: each method once, not each call."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

# What a method does: the request (its bytes, where nobody parsed them) and gRPC's context in, the answer out.
Behavior = Callable[[Any, Any], Awaitable[Any]]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class WrappingInterceptor(grpc.aio.ServerInterceptor):
    """Puts what `wrap` returns in place of each unary method of a service; requests and answers stay as they are.

    A handler that refuses its request unread is wrapped, too; it has None for a request.
    """

    def __init__(self, service: str, wrap: Callable[[str, Behavior], Behavior]) -> None:
        """wrap: called with the name of the method, such as `Search`, and what it does."""
        self._prefix = f"/{service}/"
        self._wrap = wrap
        # By the handler that is wrapped: to wrap anew for every call would take a tenth of a short one.
        self._wrapped: dict[tuple[str, bool], tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        """Returns the method's handler, wrapped."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        refuses = handler.unary_unary is None
        known = self._wrapped.get((details.method, refuses))
        if known is None or known[0] is not handler:
            name = details.method.removeprefix(self._prefix)
            known = handler, self._refusing(name, handler) if refuses else self._answering(name, handler)
            self._wrapped[details.method, refuses] = known
        return known[1]

    def _answering(self, name: str, handler: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(name, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _refusing(self, name: str, handler: Any) -> Any:
        if handler.stream_unary is None:
            return handler

        async def unread(request: Any, context: Any) -> Any:
            return await handler.stream_unary(request, context)

        behavior = self._wrap(name, unread)
        return refusing(lambda context: behavior(None, context))


def refusing(abort: Callable[[Any], Awaitable[Any]]) -> Any:
    """Returns a handler that calls `abort` with gRPC's context before the request was received, however long it is."""

    async def refuse(requests: Any, context: Any) -> None:
        await abort(context)

    # To gRPC a unary request is a stream of one, and what isn't asked for isn't read.
    return grpc.stream_unary_rpc_method_handler(refuse)
