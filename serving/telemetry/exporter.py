"""`/metrics` over HTTP on a port of its own, for Prometheus."""

import pathlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import Metric

from serving.storage import LocalStore


class Source(Protocol):
    """What has metrics; asked from a thread of the exporter, at every scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""


class Exporter:
    """Answers scrapes in threads of its own. Plain HTTP that asks nobody who they are: keep it to the inside."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._registry = CollectorRegistry()
        for source in sources:
            self._registry.register(source)
        ProcessCollector(registry=self._registry)
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self, host: str, port: int, port_file: str | None = None) -> int:
        """Listens, and returns the port; port 0 picks a free one. Raises OSError where it can't listen."""
        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise OSError(f"can't listen for metrics on {host}:{port}: {error}") from error
        port = int(self._server.server_port)
        if port_file is not None:
            file = pathlib.Path(port_file)
            LocalStore(file.parent).write(file.name, f"{port}\n".encode())
        return port

    def close(self) -> None:
        """Stops listening."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
