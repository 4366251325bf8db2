"""Adds services to a server without registering their methods one by one."""

from collections.abc import Sequence
from typing import Any

import grpc


class GenericHandlers:
    """What the generated `add_…Servicer_to_server` takes for a server.

    grpc.aio keeps a future for each registered method, and waits anew for all of them at every call (grpcio 1.85,
    `AioServer._server_main_loop`): with our fifteen methods that was a sixth of the processor's time of a vector query.
    Handlers that aren't registered share one.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Adds the handlers, which find the method by its name."""
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Adds nothing: the same methods were given as generic handlers."""
