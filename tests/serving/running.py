"""A gateway, the encoder beside it, and a client of it, in the test's process."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from serving.client import Client, Credentials
from serving.gateway.admission import Admission
from serving.gateway.config import GatewayConfig
from serving.gateway.gateway import Gateway
from tests.serving.collection import Collection
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.loop_thread import LoopThread


class Running:
    """Started on entry, drained on exit. versions: of the encoder, as FakeModelServer has them.

    credentials: of the client. encoder_credentials: of the encoder's server. options: of the gateway.
    """

    def __init__(
        self,
        loop: LoopThread,
        collection: Collection,
        *,
        versions: dict[int, int] | None = None,
        tracing: Any = None,
        credentials: Credentials | None = None,
        encoder_credentials: Any = None,
        **options: Any,
    ) -> None:
        self._credentials = credentials
        self.collection = collection
        self.encoder = FakeModelServer(dimension=collection.dimension)
        self.encoder.credentials = encoder_credentials
        if versions is not None:
            self.encoder.versions = versions
        self._loop = loop
        self._options = options
        self._tracing = tracing
        self._gateway: Gateway | None = None

    @property
    def refused(self) -> dict[str, str]:
        assert self._gateway is not None
        return self._gateway._watcher.refused

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def admission(self) -> Admission:
        assert self._gateway is not None
        return self._gateway.admission

    def started(self, method: str) -> int:
        """Returns how many calls of a method have arrived."""
        assert self._gateway is not None
        return self._gateway._telemetry.rpcs._methods[method].started

    def call_in_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls something of the gateway's where it belongs."""

        async def call() -> Any:
            return function(*arguments)

        return self._loop.run(call())

    def raw(self, method: str) -> Any:
        """Returns a method that takes and gives bytes, over the client's connection."""
        return self.client._channel.unary_unary(method)

    def drain(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            self._loop.run(gateway.drain())

    def __enter__(self) -> "Running":
        self._loop.run(self.encoder.start())
        try:
            self.port = self._loop.run(self._start())
        except BaseException:
            self._loop.run(self.encoder.stop())
            raise
        self.client = Client(self.address, credentials=self._credentials)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.drain()
        self._loop.run(self.encoder.stop())

    async def _start(self) -> int:
        options = {"serving_root": str(self.collection.root), "port": 0, "poll_seconds": 0.05, **self._options}
        config = GatewayConfig(encoder=self.encoder.address, **options)
        gateway = Gateway(config, self._tracing)
        try:
            port = await gateway.start()
        except BaseException:
            await gateway.drain()
            raise
        self._gateway = gateway
        return port
