"""Layers around the unary methods of a service: each method is wrapped once, not at each call.

They are not interceptors of gRPC's own, of which each would take a call through two more coroutines: see
generic_handlers.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

# What a method does: the request (its bytes, where nobody parsed them) and gRPC's context in, the answer out.
Behavior = Callable[[Any, Any], Awaitable[Any]]


class Layer(Protocol):
    """Looks at every call before anything of its request is read."""

    def around(self, handler: Any, details: grpc.HandlerCallDetails) -> Any:
        """Returns what handles a call in place of `handler`, which is None for a method that there isn't."""


class WrappingLayer:
    """Puts what `wrap` returns in place of each unary method of a service; requests and answers stay as they are.

    A handler that refuses its request unread is wrapped, too; it has None for a request.
    """

    def __init__(self, service: str, wrap: Callable[[str, Behavior], Behavior]) -> None:
        """wrap: called with the name of the method, such as `Search`, and what it does."""
        self._prefix = f"/{service}/"
        self._wrap = wrap
        # By method, with the handler that is wrapped: to wrap anew for every call would take a tenth of a short one.
        self._answering: dict[str, tuple[Any, Any]] = {}
        self._refusing: dict[str, tuple[Any, Any]] = {}

    def around(self, handler: Any, details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler, wrapped."""
        method = details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        answers = handler.unary_unary is not None
        wrapped = self._answering if answers else self._refusing
        known = wrapped.get(method)
        if known is None or known[0] is not handler:
            name = method.removeprefix(self._prefix)
            known = handler, self._wrapped(name, handler) if answers else self._unread(name, handler)
            wrapped[method] = known
        return known[1]

    def _wrapped(self, name: str, handler: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(name, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unread(self, name: str, handler: Any) -> Any:
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
