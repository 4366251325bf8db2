"""Several servers behind one address."""

import logging
import time
from collections.abc import Iterator

import grpc
import pytest

from serving.client import Client, QueryFailed
from serving.encoders import replicas
from serving.encoders.tfserving import TfServingEncoder
from serving.gateway.config import GatewayConfig
from serving.gateway.gateway import Gateway
from serving.gateway.options import Security
from serving.security.tls import encoder_credentials
from tests.serving.certificates import Authority
from tests.serving.collection import Collection
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png

SPEC = {"model": "encoder", "version": 2, "timeout": 10.0}


@pytest.fixture
def servers(loop: LoopThread) -> Iterator[list[FakeModelServer]]:
    servers = [FakeModelServer(), FakeModelServer()]
    for server in servers:
        server.versions = {1: 0, 2: 0}
        loop.run(server.start())
    yield servers
    for server in servers:
        loop.run(server.stop())


def address_of(servers: list[FakeModelServer]) -> str:
    return "ipv4:" + ",".join(server.address for server in servers)


@pytest.fixture
def encoder(loop: LoopThread, servers: list[FakeModelServer]) -> Iterator[TfServingEncoder]:
    async def make() -> TfServingEncoder:
        return TfServingEncoder(address_of(servers))

    encoder = loop.run(make())
    yield encoder
    loop.run(encoder.close())


def encode_until_all_were_asked(loop: LoopThread, encoder: TfServingEncoder, servers: list[FakeModelServer]) -> None:
    # The second connection may come up later than the first.
    for _ in range(10_000):
        loop.run(encoder.encode([png(0)], **SPEC))
        if all(server.asked for server in servers):
            return
    raise AssertionError([len(server.asked) for server in servers])


def test_each_is_asked_in_turn(loop, encoder, servers) -> None:
    encode_until_all_were_asked(loop, encoder, servers)
    before = [len(server.asked) for server in servers]
    for _ in range(20):
        loop.run(encoder.encode([png(0)], **SPEC))
    assert [len(server.asked) - n for server, n in zip(servers, before, strict=True)] == [10, 10]


def test_a_version_is_there_when_all_that_answer_hold_it(loop, encoder, servers) -> None:
    assert loop.run(encoder.available(**SPEC))
    servers[1].versions = {1: 0}
    assert not loop.run(encoder.available(**SPEC))
    loop.run(servers[1].stop())
    assert loop.run(encoder.available(**SPEC))
    loop.run(servers[0].stop())
    assert not loop.run(encoder.available(**SPEC))


def test_names_are_looked_up(loop) -> None:
    assert "ipv4:127.0.0.1:8500" in loop.run(replicas.each("dns:///localhost:8500"))
    assert loop.run(replicas.each("encoder.example:8500")) == ["encoder.example:8500"]
    assert replicas.host_name("dns:///tensorflow-serving:8500") == "tensorflow-serving"
    # A top-level name that is reserved for not being there.
    assert loop.run(replicas.each("dns:///nowhere.invalid:8500")) == []


def test_over_tls_each_shows_a_certificate_of_the_name(loop, tmp_path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("encoder", "localhost")
    pair = [((tmp_path / "encoder.key").read_bytes(), (tmp_path / "encoder.crt").read_bytes())]
    server = FakeModelServer()
    server.credentials = grpc.ssl_server_credentials(pair)
    loop.run(server.start())

    async def make() -> TfServingEncoder:
        credentials = encoder_credentials(Security(encoder_ca=authority.file, encoder_cert=cert, encoder_key=key))
        return TfServingEncoder(f"dns:///localhost:{server.port}", (), credentials)

    encoder = loop.run(make())
    try:
        assert loop.run(encoder.available(**{**SPEC, "version": 1}))
        assert not loop.run(encoder.available(**SPEC))
    finally:
        loop.run(encoder.close())
        loop.run(server.stop())


def test_a_release_waits_for_every_server(loop, servers, tmp_path, caplog) -> None:
    caplog.set_level(logging.WARNING, logger="serving.gateway.watcher")
    collection = Collection(tmp_path / "root")
    collection.publish()
    servers[1].versions = {}

    async def start() -> tuple[Gateway, int]:
        root = str(collection.root)
        gateway = Gateway(GatewayConfig(root, address_of(servers), port=0, poll_seconds=0.05))
        return gateway, await gateway.start()

    gateway, port = loop.run(start())
    try:
        with Client(f"127.0.0.1:{port}") as client:
            end = time.monotonic() + 60
            while "version 1 of encoder encoder is not loaded everywhere." not in caplog.text:
                assert time.monotonic() < end, caplog.text
                time.sleep(0.02)
            with pytest.raises(QueryFailed, match="no release"):
                client.get_release()
            servers[1].versions = {1: 0}
            client.wait_until_serving(60)
    finally:
        loop.run(gateway.drain())
