"""The commands as a person runs them: real processes."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from serving.client import Client
from serving.gateway.options import Updates
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.pictures import png
from tests.serving.running import Running

LOOKALIKE = [sys.executable, "-m", "serving.cli"]


@pytest.fixture(scope="module")
def running(loop: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    collection = Collection(tmp_path_factory.mktemp("commands") / "root")
    collection.publish()
    with Running(loop, collection) as running:
        running.client.wait_until_serving(60)
        yield running


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*LOOKALIKE, *arguments], capture_output=True, text=True, timeout=60)


def test_query_prints_a_table(running: Running, tmp_path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(png(3))
    done = run("query", "--image", str(file), "-k", "3", "--address", running.address)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["RANK", "SCORE", "ITEM", "SIZE", "ATTRIBUTES"]
    assert lines[1].split() == ["1", "1.0000", "item-3.png", "16x16", "half=1.5", "label=3", "number=3", "odd=True"]
    assert len(lines) == 5
    assert lines[4].startswith(f"release {running.collection.current}, encoder version 1, ")


def test_upsert_and_delete(loop: LoopThread, tmp_path) -> None:
    collection = Collection(tmp_path / "root")
    collection.publish()
    file = tmp_path / "x.png"
    file.write_bytes(png(777))
    with Running(loop, collection, updates=Updates(allow_updates=True, advise_items=3)) as running:
        running.client.wait_until_serving(10)
        at = ["--address", running.address]
        given = ["--attribute", "label=shoe", "--attribute", "price=49.9", "--attribute", 'size="42"']
        done = run("upsert", "--image", str(file), "--id", "new.png", *given, "--uri", "file:///x.png", *at)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"new.png added, beside release {collection.current}\n"
        item = running.client.get_item("new.png")
        assert (item.attributes, item.uri) == ({"label": "shoe", "price": 49.9, "size": "42"}, "file:///x.png")
        run("upsert", "--image", str(file), "--id", "seven.png", "--attribute", "label=7", *at)
        assert running.client.get_item("seven.png").attributes == {"label": "7"}, "as releases have it"
        assert "replaced" in run("upsert", "--image", str(file), "--id", "new.png", *at).stdout
        assert run("delete", "--id", "item-3.png", *at).stdout == "item-3.png deleted; it is time to reindex\n"
        done = run("delete", "--id", "item-3.png", "--purge", *at)
        assert (done.returncode, done.stdout.split(";")[0]) == (0, "item-3.png was not there")
        done = run("upsert", "--image", str(tmp_path / "none.png"), "--id", "x", *at)
        assert (done.returncode, "can't read" in done.stderr) == (2, True)
        done = run("upsert", "--image", str(file), "--id", "x", "--attribute", "price", *at)
        assert (done.returncode, "NAME=VALUE" in done.stderr) == (2, True)
        done = run("delete", "--id", "", *at)
        assert (done.returncode, "[INVALID_ARGUMENT]" in done.stderr) == (1, True)


def test_query_prints_json(running: Running) -> None:
    done = run("query", "--item-id", "item-3.png", "-k", "2", "--json", "--address", running.address)
    answer = json.loads(done.stdout)
    assert len(answer["neighbors"]) == 2
    assert answer["neighbors"][0]["item"]["attributes"]["label"]


def test_query_filters_and_collapses(running: Running) -> None:
    arguments = ["--item-id", "item-3.png", "-k", "40", "--release", running.collection.current]
    text = 'label in ("3", "4") and not (number >= 20 or `odd` = true)'
    done = run("query", *arguments, "--filter", text, "--address", running.address)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(line.split()[2] for line in lines[1:-2]) == ["item-14.png", "item-4.png"]
    assert lines[-2] == "2 items match the filter"
    assert lines[-1].endswith(", exact filtered)")
    done = run("query", *arguments, "--collapse", "0.5", "--address", running.address)
    assert "alike)" in done.stdout and len(done.stdout.splitlines()) < 40
    done = run("query", *arguments, "--collapse-duplicates", "--address", running.address)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 41), "there are none"
    none = run("query", *arguments, "--filter", "label = 3", "--min-score", "0.5", "--address", running.address)
    assert none.stdout.splitlines()[1] == "0 items match the filter"


def test_query_takes_a_vector_that_begins_with_a_minus(running: Running) -> None:
    vector = ",".join(["-0.5"] * 16)
    assert run("query", f"--vector={vector}", "--address", running.address).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--item-id", "nobody"], 1, "has no item 'nobody'. [NOT_FOUND]"),
        (["--item-id", "item-3.png", "-k", "0"], 1, "k must be in [1, 1000], got 0. [INVALID_ARGUMENT]"),
        (["--item-id", "item-3.png", "-k", str(2**40)], 1, "Value out of range: 1099511627776 [INVALID_ARGUMENT]"),
        (["--vector", "1,2"], 1, "vector must have 16 values, got 2. [INVALID_ARGUMENT]"),
        (["--vector", "1,x"], 2, "numbers with commas between"),
        (["--item-id", "item-3.png", "--filter", "label = nine"], 2, 'write "nine" at character 9'),
        (["--item-id", "item-3.png", "--min-score", "2"], 1, "min_score must be in [-1, 1], got 2. [INVALID_ARGUMENT]"),
        (["--item-id", "item-3.png", "--release", "r0"], 1, "'r0' is not held;"),
        (["--image", "/no/such.png"], 2, "can't read /no/such.png: No such file or directory."),
        ([], 2, "one of the arguments --image --item-id --vector is required"),
    ],
)
def test_query_says_what_is_wrong(running: Running, arguments: list[str], code: int, message: str) -> None:
    done = run("query", *arguments, "--address", running.address)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_query_without_a_gateway() -> None:
    done = run("query", "--item-id", "a", "--address", "127.0.0.1:1", "--timeout", "5")
    assert done.returncode == 1
    assert "no answer from the gateway at 127.0.0.1:1" in done.stderr


def test_gateway_says_what_is_wrong(tmp_path) -> None:
    done = run("gateway", "--serving-root", str(tmp_path), "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "host 0.0.0.0 is not loopback" in done.stderr
    assert "serving_root must be given" in run("gateway").stderr


@pytest.mark.parametrize("command", ["gateway", "query"])
def test_help_shows_how_to_begin(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"  lookalike {command} --" in done.stdout


def test_the_gateway_process_serves_and_stops(running: Running, tmp_path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"serving_root: {running.collection.root}\nport: 1\npoll_seconds: 0.1\n")
    port_file = tmp_path / "port"
    command = [*LOOKALIKE, "gateway", "--config", str(config), "--encoder", running.encoder.address, "--port", "0"]
    with subprocess.Popen([*command, "--port-file", str(port_file)], stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 20
            while not port_file.exists():
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.05)
            with Client(f"127.0.0.1:{int(port_file.read_text())}") as client:
                client.wait_until_serving(60)
                assert client.search(image=png(3)).neighbors[0].item.item_id == "item-3.png"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
        log = process.stderr.read()
    assert "listening on 127.0.0.1:" in log and "serving release" in log and "stopped" in log
    assert "Traceback" not in log


def test_the_gateway_holds_no_tensorflow_and_starts_at_once() -> None:
    heavy = "tensorflow", "keras", "tfx", "apache_beam"
    script = f"import sys, serving.gateway.gateway; print([m for m in {heavy} if m in sys.modules])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip() == "[]"
    # Of a processor, so that a busy machine changes little.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5


def test_the_core_needs_no_grpc() -> None:
    script = "import sys, serving.search.retrieval; print([m for m in ('grpc', 'google.protobuf') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
