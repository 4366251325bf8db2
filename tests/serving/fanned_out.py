"""A root and its leaves, the encoder beside them, and a client of the root, in the test's process."""

import time
from types import TracebackType
from typing import Any

from serving.client import Client, QueryFailed
from serving.gateway.config import GatewayConfig
from serving.gateway.gateway import Gateway
from serving.gateway.options import FanOut
from tests.serving.collection import Collection
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.loop_thread import LoopThread


class FannedOut:
    """Started on entry, drained on exit.

    of: how many leaves. replicas: of each. fan_out: further options of the root's section. options: of all gateways.
    root, leaf: of those alone. swapped: two leaves that the root takes for each other.
    """

    def __init__(
        self,
        loop: LoopThread,
        collection: Collection,
        *,
        of: int = 4,
        replicas: int = 1,
        versions: dict[int, int] | None = None,
        fan_out: dict[str, Any] | None = None,
        root: dict[str, Any] | None = None,
        leaf: dict[str, Any] | None = None,
        swapped: tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        self.collection = collection
        self.encoder = FakeModelServer(dimension=collection.dimension)
        if versions is not None:
            self.encoder.versions = versions
        self._loop = loop
        self._of = of
        self._replicas = replicas
        self._fan_out = {"leaf_poll_seconds": 0.05, **(fan_out or {})}
        self._root_options = root or {}
        self._leaf_options = leaf or {}
        self._options = options
        self._swapped = swapped
        # By share and number of the replica.
        self.leaves: dict[tuple[int, int], Gateway] = {}
        self.ports: dict[tuple[int, int], int] = {}
        self.root: Gateway | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_leaf(self, share: int, replica: int = 0) -> None:
        """Starts a leaf, on the port that it had before if it had one."""
        port = self.ports.get((share, replica), 0)
        options = {"port": port, **self._leaf_options, "fan_out": FanOut(shard_share=f"{share}/{self._of}")}
        self.leaves[share, replica], self.ports[share, replica] = self._loop.run(self._start(options))

    def stop_leaf(self, share: int, replica: int = 0) -> None:
        """Ends a leaf."""
        self._loop.run(self.leaves.pop((share, replica)).drain())

    def start_root(self) -> None:
        """Starts the root."""
        places = [[self.ports[share, replica] for replica in range(self._replicas)] for share in range(self._of)]
        if self._swapped is not None:
            one, other = self._swapped
            places[one], places[other] = places[other], places[one]
        leaves = [",".join(f"127.0.0.1:{port}" for port in ports) for ports in places]
        options = {**self._root_options, "fan_out": FanOut(leaves=leaves, **self._fan_out)}
        self.root, self.port = self._loop.run(self._start(options))
        self.client = Client(self.address)

    def wait_until_whole(self, seconds: float = 60.0) -> None:
        """Waits until answers come from all of the release: a root begins with `min_coverage` of it."""
        self.client.wait_until_serving(seconds)
        end = time.monotonic() + seconds
        while not self._is_whole():
            if time.monotonic() > end:
                raise TimeoutError(f"the root's answers are degraded after {seconds:g} s.")
            time.sleep(0.02)

    def _is_whole(self) -> bool:
        try:
            return not self.client.search(vector=[1.0] * self.collection.dimension).degraded
        except QueryFailed as error:
            # Leaves may have been restarted, and the root not have said so yet.
            if error.code != "UNAVAILABLE":
                raise
            return False

    def __enter__(self) -> "FannedOut":
        self._loop.run(self.encoder.start())
        try:
            for share in range(self._of):
                for replica in range(self._replicas):
                    self.start_leaf(share, replica)
            self.start_root()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._end()

    def _end(self) -> None:
        for gateway in [*([] if self.root is None else [self.root]), *self.leaves.values()]:
            self._loop.run(gateway.drain())
        self._loop.run(self.encoder.stop())

    async def _start(self, options: dict[str, Any]) -> tuple[Gateway, int]:
        options = {
            "serving_root": str(self.collection.root),
            "port": 0,
            "poll_seconds": 0.05,
            **self._options,
            **options,
        }
        gateway = Gateway(GatewayConfig(encoder=self.encoder.address, **options))
        try:
            return gateway, await gateway.start()
        except BaseException:
            await gateway.drain()
            raise
