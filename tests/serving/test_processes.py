"""Gateways as processes: signals, several on one port, and what they write down."""

import concurrent.futures
import json
import pathlib
import signal
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from serving.client import Client, Credentials, QueryFailed
from tests.serving.collection import Collection
from tests.serving.fake_model_server import FakeModelServer
from tests.serving.gateway_process import GatewayProcess
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png

pytestmark = pytest.mark.slow

ONE = [1.0] * 16


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    collection = Collection(tmp_path_factory.mktemp("processes") / "root")
    collection.publish()
    return collection


@pytest.fixture
def encoder(loop: LoopThread) -> Iterator[FakeModelServer]:
    encoder = FakeModelServer()
    loop.run(encoder.start())
    yield encoder
    loop.run(encoder.stop())


@pytest.fixture
def flags(collection: Collection, encoder: FakeModelServer) -> list[str]:
    return ["--serving-root", str(collection.root), "--encoder", encoder.address]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def search_on_a_new_connection(address: str) -> str:
    with Client(address) as client:
        return client.search(vector=ONE, k=1).release_id


def slow_search(address: str) -> str:
    with Client(address, timeout=20) as client:
        try:
            return client.search(image=png(7), k=1).neighbors[0].item.item_id
        except QueryFailed as error:
            return error.code


def test_what_is_under_way_is_finished_and_a_second_signal_ends_it_at_once(
    flags: list[str], encoder: FakeModelServer, tmp_path: pathlib.Path
) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for signals, expected, code in ((1, "item-7.png", 0), (2, "UNAVAILABLE", -signal.SIGTERM)):
            encoder.delay = 0.0
            with GatewayProcess(tmp_path, *flags, "--grace-seconds", "30") as gateway:
                with Client(gateway.address) as client:
                    client.wait_until_serving(60)
                encoder.delay = 1.5 if signals == 1 else 600.0
                asked = len(encoder.asked)
                slow = pool.submit(slow_search, gateway.address)
                until(lambda asked=asked: len(encoder.asked) > asked)
                gateway.send()
                until(lambda gateway=gateway: "draining" in gateway.log)
                if signals == 2:
                    gateway.send()
                assert gateway.wait() == code
                assert slow.result() == expected
                assert "Traceback" not in gateway.log


def test_several_processes_share_a_port(flags: list[str], tmp_path: pathlib.Path) -> None:
    with GatewayProcess(tmp_path, *flags, "--processes", "2") as gateway:
        with Client(gateway.address) as client:
            client.wait_until_serving(60)
        first, second = gateway.children
        clients = [Client(gateway.address) for _ in range(24)]
        # gRPC shares the connections of a process; each of these has one of its own.
        channels = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(24)]
        until(lambda: all(len(child.net_connections("tcp")) > 3 for child in (first, second)))
        for channel in channels:
            channel.close()
        for client in clients:
            client.close()

        first.kill()
        until(lambda: gateway.children and len(gateway.children) == 2 and first.pid not in pids(gateway))
        assert f"process 0 ended with {-signal.SIGKILL}" in gateway.log
        until(lambda: gateway.log.count("serving release") == 3)
        assert all(search_on_a_new_connection(gateway.address) for _ in range(10))

        gateway.send()
        assert gateway.wait() == 0
        assert gateway.log.count("draining\n") == 2 and gateway.log.rstrip().endswith("stopped")
        assert "Traceback" not in gateway.log


def pids(gateway: GatewayProcess) -> set[int]:
    return {child.pid for child in gateway.children}


def test_a_second_signal_kills_several_processes_too(
    flags: list[str], encoder: FakeModelServer, tmp_path: pathlib.Path
) -> None:
    with GatewayProcess(tmp_path, *flags, "--processes", "2", "--grace-seconds", "30") as gateway:
        with Client(gateway.address) as client:
            client.wait_until_serving(60)
        encoder.delay = 10.0
        asked = len(encoder.asked)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(slow_search, gateway.address)
            until(lambda: len(encoder.asked) > asked)
            gateway.send()
            until(lambda: "draining 2 processes" in gateway.log)
            gateway.send()
            assert gateway.wait(3) == 1
            assert slow.result() == "UNAVAILABLE"


def test_several_processes_end_in_peace_before_they_have_begun(flags: list[str], tmp_path: pathlib.Path) -> None:
    with GatewayProcess(tmp_path, *flags, "--processes", "2") as gateway:
        until(lambda: len(gateway.children) == 2)
        gateway.send()
        assert gateway.wait() == 0


def test_processes_end_with_whoever_started_them(flags: list[str], tmp_path: pathlib.Path) -> None:
    with GatewayProcess(tmp_path, *flags, "--processes", "2") as gateway:
        assert gateway.port
        children = gateway.children
        gateway.send(signal.SIGKILL)
        gateway.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive


@pytest.mark.parametrize("second", ["1", "2"])
@pytest.mark.parametrize("first", ["1", "2"])
def test_a_port_belongs_to_one_gateway(flags: list[str], tmp_path: pathlib.Path, first: str, second: str) -> None:
    with GatewayProcess(tmp_path / "a", *flags, "--processes", first) as gateway:
        port = str(gateway.port)
        with GatewayProcess(tmp_path / "b", *flags, "--processes", second, "--port", port) as late:
            assert late.wait() == 2
            assert f"can't listen on 127.0.0.1:{port}: is it taken?" in late.log
        assert gateway.process.poll() is None


def test_a_port_is_free_again_at_once(flags: list[str], tmp_path: pathlib.Path) -> None:
    port = "0"
    for processes in ("2", "1", "2"):
        with GatewayProcess(tmp_path, *flags, "--processes", processes, "--port", port) as gateway:
            with Client(gateway.address) as client:
                client.wait_until_serving(60)
            port = str(gateway.port)
            gateway.send()
            assert gateway.wait() == 0


def test_what_is_wrong_with_the_options_ends_several_processes(flags: list[str], tmp_path: pathlib.Path) -> None:
    (tmp_path / "tokens").write_text("short\n")
    with GatewayProcess(tmp_path, *flags, "--processes", "2", "--read-tokens", str(tmp_path / "tokens")) as gateway:
        assert gateway.wait() == 2
        assert "tokens can't be used" in gateway.log and "Traceback" not in gateway.log


def test_logs_are_json_and_admins_are_written_down(flags: list[str], tmp_path: pathlib.Path) -> None:
    secret = "s" * 32
    (tmp_path / "admin").write_text(f"ops {secret}\n")
    audit = tmp_path / "audit.jsonl"
    options = ["--log-format", "json", "--log-requests", "1", "--admin-tokens", str(tmp_path / "admin")]
    with GatewayProcess(tmp_path, *flags, *options, "--audit-file", str(audit), "--processes", "2") as gateway:
        with Client(gateway.address, credentials=Credentials(token_file=str(tmp_path / "admin"))) as client:
            client.wait_until_serving(60)
            release_id = client.search(image=png(3)).release_id
            assert list(client.list_releases())
            # As logrotate does it.
            audit.rename(tmp_path / "audit.1")
            assert list(client.list_releases())
        gateway.send()
        assert gateway.wait() == 0
        lines = [json.loads(line) for line in gateway.log.splitlines()]
    (search,) = [line for line in lines if line.get("method") == "Search"]
    assert (search["code"], search["release_id"], search["logger"]) == ("OK", release_id, "serving.gateway.request_log")
    assert search["milliseconds"] > 0 and search["request_bytes"] > 200 and search["peer"].startswith("ipv4:127.0.0.1:")
    for file in (tmp_path / "audit.1", audit):
        (line,) = map(json.loads, file.read_text().splitlines())
        assert (line["method"], line["principal"], line["code"]) == ("ListReleases", "ops", "OK")
    assert not any("method" in line and line["logger"] == "serving.audit" for line in lines), "it has a file of its own"
    assert secret not in gateway.log + audit.read_text()


@pytest.mark.slow
def test_a_rolling_restart_fails_nobody(flags: list[str], tmp_path: pathlib.Path) -> None:
    """Two gateways behind one address, each restarted under load; the client watches health and retries."""
    ports = [free_port(), free_port()]
    stop, failures, answers = False, [], 0

    def ask(client: Client) -> None:
        nonlocal answers
        while not stop:
            try:
                assert client.search(vector=ONE, k=1).neighbors
                answers += 1
            except QueryFailed as error:
                failures.append(f"{error.code} {error}")

    def started(i: int) -> GatewayProcess:
        options = ["--port", str(ports[i]), "--drain-seconds", "2", "--max-age", "1", "--log-requests", "1"]
        return GatewayProcess(tmp_path / str(i), *flags, *options)

    gateways = [started(0).__enter__(), started(1).__enter__()]
    try:
        for gateway in gateways:
            with Client(gateway.address) as client:
                client.wait_until_serving(60)
        address = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        with concurrent.futures.ThreadPoolExecutor(4) as pool, Client(address, timeout=30) as client:
            client.wait_until_serving(60)
            asking = [pool.submit(ask, client) for _ in range(4)]
            for _ in range(2):
                for i in (0, 1):
                    gateways[i].send()
                    assert gateways[i].wait() == 0
                    gateways[i] = started(i).__enter__()
                    with Client(gateways[i].address) as probe:
                        probe.wait_until_serving(60)
                    # Then the other may go.
                    until(lambda i=i: "Search code=OK" in gateways[i].log)
            stop = True
            for future in asking:
                future.result()
    finally:
        stop = True
        for gateway in gateways:
            gateway.__exit__(None, None, None)
    assert not failures, f"{len(failures)} of {answers}: {failures[:3]}"
    assert answers > 100


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
