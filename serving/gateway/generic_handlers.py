"""Gives a server its methods as cheaply as grpc.aio can find them, with the layers around them."""

from collections.abc import Sequence
from typing import Any

import grpc

from serving.gateway.interception import Layer


class GenericHandlers(grpc.GenericRpcHandler):
    """What the generated `add_…Servicer_to_server` takes for a server, and one handler of all methods to the server.

    grpc.aio keeps a future for each registered method, and waits anew for all of them at every call (grpcio 1.85,
    `AioServer._server_main_loop`): with our fifteen methods that was a sixth of the processor's time of a vector query.
    Handlers that aren't registered share one. And an interceptor takes every call through coroutines of its own, to do
    what is done here by calling functions.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        """layers: around every method, also one that there isn't; the outermost first."""
        self._around = [layer.around for layer in reversed(layers)]
        self._handlers: list[grpc.GenericRpcHandler] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Returns the method's handler inside of all layers; None where there is no such method."""
        handler = None
        for handlers in self._handlers:
            handler = handlers.service(details)
            if handler is not None:
                break
        for around in self._around:
            handler = around(handler, details)
        return handler

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Adds handlers, which find the method by its name."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Adds nothing: the same methods were given as generic handlers."""
