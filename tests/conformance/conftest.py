"""Brings the server that the suite runs against: `--target HOST:PORT`, or ours as a process. See test_predict.py."""

import pathlib
import shutil

import pytest

from tests.conformance import models
from tests.conformance.process import model_server
from tests.conformance.target import Target

FLAGS = (
    *("--poll-seconds", "0.2"),
    *("--max-load-retries", "0"),
    "--allow-reload",
    "--allow-version-labels-for-unavailable-models",
)
# How our server can run requests.
WAYS = {"batching": (), "plain": ("--no-batching",)}


def pytest_addoption(parser):
    group = parser.getgroup("conformance")
    group.addoption("--target", help="HOST:PORT of a server to test instead of starting ours")
    group.addoption("--model-base-path", help="with --target: its models' folder, as seen from here")
    group.addoption("--server-base-path", help="with --target: the same folder as the server sees it")


def pytest_generate_tests(metafunc):
    if "target" in metafunc.fixturenames:
        external = metafunc.config.getoption("--target", default=None)
        # How versions come and go doesn't depend on how requests run.
        ways = getattr(metafunc.module, "WAYS", ["batching"])
        metafunc.parametrize("target", ["external"] if external else ways, indirect=True, scope="session")


@pytest.fixture(scope="session")
def written_models(tmp_path_factory):
    """A folder with every model, to copy from."""
    base = tmp_path_factory.mktemp("written")
    models.write_base(base, "BASE")
    return base


@pytest.fixture(scope="session")
def target(request, tmp_path_factory):
    """The server under test."""
    if request.param == "external":
        base = request.config.getoption("--model-base-path")
        yield Target(
            request.config.getoption("--target"),
            pathlib.Path(base) if base else None,
            request.config.getoption("--server-base-path") or base,
        )
        return
    folder = tmp_path_factory.mktemp(request.param)
    base = folder / "models"
    shutil.copytree(request.getfixturevalue("written_models"), base)
    config = base / models.CONFIG
    config.write_text(models.config_text(str(base)))
    with model_server(folder, "--model-config-file", str(config), *FLAGS, *WAYS[request.param]) as process:
        yield Target(process.address, base, str(base))


@pytest.fixture
def ours(request, target):
    """The server, where it is ours: for what only ours can be asked in every run."""
    if request.config.getoption("--target", default=None):
        pytest.skip("only our own server behaves so")
    return target


@pytest.fixture
def folders(target):
    """The server, where the test may change its folders."""
    if target.base is None:
        pytest.skip("needs --model-base-path")
    return target
