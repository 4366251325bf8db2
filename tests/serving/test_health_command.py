"""`lookalike health` as a probe runs it: a process, with its exit status."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving.gateway.health import ENCODER, SERVICE
from serving.gateway.options import Security
from tests.serving.certificates import Authority
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.running import Running


def health(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.cli", "health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def running(loop: LoopThread, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    collection = Collection(tmp_path_factory.mktemp("health") / "root")
    collection.publish()
    cert, key = authority.issue("gateway", "localhost", "127.0.0.1")
    security = Security(tls_cert=cert, tls_key=key, client_ca=authority.file)
    with Running(loop, collection, credentials=authority.client(), security=security) as running:
        running.client.wait_until_serving(20)
        yield running


@pytest.fixture
def flags(running: Running, authority: Authority) -> list[str]:
    # As in the manifests: the gateway's own certificate serves as the probe's.
    cert, key = authority.issue("probe", "localhost")
    return ["--address", f"localhost:{running.port}", "--ca", authority.file, "--cert", cert, "--key", key]


@pytest.mark.parametrize("service", ["", SERVICE])
def test_a_gateway_that_serves(flags: list[str], service: str) -> None:
    done = health(*flags, "--service", service)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SERVING\n", "")


def test_a_name_that_nobody_has(flags: list[str]) -> None:
    done = health(*flags, "--service", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "[NOT_FOUND]" in done.stderr


def test_an_encoder_that_is_away(loop: LoopThread, tmp_path: pathlib.Path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    # No version of it is loaded, so no release is served either; the process lives.
    with Running(loop, collection, versions={}) as running:
        for service, code, said in (("", 0, "SERVING\n"), (SERVICE, 1, "NOT_SERVING\n"), (ENCODER, 1, "NOT_SERVING\n")):
            done = health("--address", running.address, "--service", service)
            assert (done.returncode, done.stdout) == (code, said)


def test_without_a_certificate_nobody_answers(running: Running, authority: Authority) -> None:
    for flags in ([], ["--ca", authority.file]):
        done = health("--address", f"localhost:{running.port}", "--timeout", "2", *flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert "UNAVAILABLE" in done.stderr or "DEADLINE_EXCEEDED" in done.stderr


def test_what_is_wrong_with_the_files(running: Running, tmp_path: pathlib.Path) -> None:
    done = health("--address", running.address, "--ca", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file" in done.stderr and "Traceback" not in done.stderr
