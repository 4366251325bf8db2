"""Encoder servers that come and go behind a name, as pods do behind a headless Service; real name look-ups."""

import time
from collections.abc import Callable, Iterator

import pytest

from serving.encoders.tfserving import TfServingEncoder
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.loop_thread import LoopThread
from tests.serving.name_server import NameServer
from tests.serving.pictures import png

pytestmark = pytest.mark.slow


@pytest.fixture
def names(loop: LoopThread) -> Iterator[tuple[NameServer, int]]:
    async def make() -> NameServer:
        return NameServer()

    server = loop.run(make())
    yield server, loop.run(server.start())
    loop.run(server.stop())


@pytest.fixture
def servers(loop: LoopThread) -> Iterator[list[FakeModelServer]]:
    """Three on one port, each with an address of its own; connections are closed in peace soon, as in the manifests."""
    servers = [FakeModelServer() for _ in range(3)]
    for number, server in enumerate(servers):
        server.host, server.port = f"127.0.0.{number + 1}", servers[0].port
        server.options = [("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 5000)]
        loop.run(server.start())
    yield servers
    for server in servers:
        loop.run(server.stop())


def test_one_that_left_dns_may_be_killed(loop: LoopThread, names: tuple[NameServer, int], servers) -> None:
    server, port = names
    first, second, third = servers
    server.addresses = [first.host, second.host]

    async def make() -> TfServingEncoder:
        return TfServingEncoder(f"dns://127.0.0.1:{port}/encoder.test:{first.port}")

    encoder = loop.run(make())

    def ask_until(holds: Callable[[], bool], seconds: float = 90.0) -> None:
        """Asks all along; any failure is one of the test."""
        end = time.monotonic() + seconds
        while not holds():
            loop.run(encoder.encode([png(0)], model="encoder", version=1, timeout=30.0))
            assert time.monotonic() < end, [len(each.asked) for each in servers]

    try:
        ask_until(lambda: bool(first.asked and second.asked))
        # Its successor is in DNS, it no longer is: it is found, and then the old one is asked no more.
        server.addresses = [second.host, third.host]
        ask_until(lambda: len(third.asked) > 10)
        looked_up, before = server.asked, len(first.asked)
        ask_until(lambda: server.asked > looked_up + 1)
        assert len(first.asked) == before
        # As TF Serving goes: without a word.
        loop.run(first.stop())
        asked = len(second.asked)
        ask_until(lambda: len(second.asked) > asked + 200)
    finally:
        loop.run(encoder.close())
