"""Gateways of several processes: each tells its own, and together it is all that was asked."""

import pathlib
import socket
import time
import urllib.request
from collections.abc import Callable

import pytest

from serving.client import Client
from serving.gateway.config import ConfigError, GatewayConfig
from serving.gateway.options import Monitoring
from tests.serving.collection import Collection
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.gateway_process import GatewayProcess
from tests.serving.loop_thread import LoopThread
from tests.serving.telemetry.monitored import Scrape

pytestmark = pytest.mark.slow


def two_free_ports() -> int:
    """Returns a port that is free and whose successor is, too."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two ports beside each other are free")


def scrape(port: int) -> Scrape | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            return Scrape(response.read().decode())
    except OSError:
        return None


def searches(*ports: int) -> float:
    """Returns how many were counted; -1 while a port doesn't answer, or its process serves nothing yet."""
    found = [scrape(port) for port in ports]
    if any(told is None or not told.value("lookalike_release_serving") for told in found):
        return -1
    return sum(told.value("grpc_server_handled_total", grpc_method="Search") for told in found if told is not None)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_each_process_has_a_port_and_together_they_tell_all(loop: LoopThread, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    encoder = FakeModelServer()
    loop.run(encoder.start())
    port = two_free_ports()
    told = tmp_path / "metrics-port"
    flags = ["--serving-root", str(collection.root), "--encoder", encoder.address, "--processes", "2"]
    flags += ["--metrics-port", str(port), "--metrics-port-file", str(told)]
    with GatewayProcess(tmp_path / "gateway", *flags) as gateway:
        address = gateway.address
        until(lambda: searches(port, port + 1) == 0)
        assert (int(told.read_text()), int(pathlib.Path(f"{told}.1").read_text())) == (port, port + 1)
        for _ in range(20):
            with Client(address) as client:
                client.search(vector=[1.0] * 16)
        assert searches(port, port + 1) == 20
        # Whoever takes a dead one's place takes its port, and begins at nothing: a counter's reset.
        of_first = searches(port)
        gateway.children[0].kill()
        until(lambda: searches(port, port + 1) == 20 - of_first)
    loop.run(encoder.stop())


@pytest.mark.parametrize(("port", "fine"), [(65534, True), (65535, False)])
def test_ports_for_all_processes_must_exist(port: int, fine: bool) -> None:
    def config() -> GatewayConfig:
        return GatewayConfig("root", processes=2, monitoring=Monitoring(metrics_port=port))

    if fine:
        config()
        return
    with pytest.raises(ConfigError, match=r"monitoring\.metrics_port must be in \[0, 65534\], got 65535"):
        config()
