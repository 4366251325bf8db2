"""The server as a process: what it does at its start, at its limits and at its end."""

import pathlib
import signal
import socket
import time

import grpc
import pytest
import tensorflow as tf

from serving.cli import main
from tests.conformance import models
from tests.conformance.process import model_server, wait_until
from tests.conformance.target import TIMEOUT, Target, floats, predict_request, refused
from tests.conformance.test_reload import first_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(version_folder, tmp_path_factory):
    """A base path with one version."""
    base = tmp_path_factory.mktemp("base")
    models.copy_version(version_folder, base / "1")
    return base


@pytest.fixture
def serve(base, tmp_path):
    """Starts servers on `base` with further flags; they end with the test."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def serve(*flags, path=base):
            folder = tmp_path / f"server-{time.monotonic_ns()}"
            return stack.enter_context(model_server(folder, "--model-base-path", str(path), *flags))

        yield serve


def client(process):
    return Target(process.address, pathlib.Path(), "")


def slow_call(target, seconds, timeout=TIMEOUT):
    request = predict_request("encoder", "slow", {"seconds": floats(seconds)})
    call = target.prediction.Predict.future(request, timeout=timeout)
    time.sleep(0.3)
    return call


def test_sigterm_lets_running_requests_end(serve):
    process = serve()
    target = client(process)
    call = slow_call(target, 1.5)
    process.popen.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    with refused(grpc.StatusCode.UNAVAILABLE):
        target.predict("encoder", timeout=2)
    assert tf.make_ndarray(call.result().outputs["elapsed"]) >= 1.5
    assert process.popen.wait(10) == 0
    assert "listening on 127.0.0.1:" in process.log


def test_sigterm_does_not_wait_for_ever(serve):
    process = serve("--drain-seconds", "0.5")
    call = slow_call(client(process), 600, timeout=None)
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(10) == 0
    assert call.code() != grpc.StatusCode.OK


@pytest.mark.parametrize("flags", [(), ("--no-batching",)])
def test_limits_and_switches(serve, flags):
    process = serve(
        "--enable-serialization-as-tensor-content", "--max-batch-size", "1", "--max-enqueued-batches", "1", *flags
    )
    target = client(process)
    # Answers in the other encoding.
    proto = target.predict("encoder").outputs["embedding"]
    assert not proto.float_val
    assert tf.make_ndarray(proto).shape == (1, models.DIMENSION)
    # Which models are served is not for clients to say.
    with refused(grpc.StatusCode.PERMISSION_DENIED, "--allow-reload"):
        target.reload(first_config(target))
    # One runs, one waits, the next is refused: or, without batching, all run.
    calls = [slow_call(target, 1) for _ in range(3)]
    codes = [call.code() for call in calls]
    last = grpc.StatusCode.OK if flags else grpc.StatusCode.UNAVAILABLE
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.OK, last]
    if not flags:
        assert calls[2].details() == "The batch scheduling queue to which this task was submitted is full"


def test_the_port_opens_once_the_model_is_loaded(serve, base, tmp_path):
    later = tmp_path / "later"
    process = serve("--poll-seconds", "0.1", path=later)
    wait_until(lambda: "Could not read base path" in process.log, 60)
    assert not process.listens
    slow = [models.predict_log("encoder", "slow", seconds=tf.make_tensor_proto([1.0], tf.float32))]
    models.copy_version(base / "1", tmp_path / "warm")
    models.write_warmup(tmp_path / "warm", slow)
    later.mkdir()
    models.copy_version(tmp_path / "warm", later / "4")
    wait_until(lambda: "Loading model encoder version 4" in process.log)
    assert not process.listens
    assert client(process).states("encoder") == {4: 30}


def test_the_port_opens_also_when_the_model_is_broken(serve, tmp_path):
    (tmp_path / "broken" / "1").mkdir(parents=True)
    target = client(serve("--max-load-retries", "0", path=tmp_path / "broken"))
    assert target.states("encoder") == {1: 50}


def test_sigterm_while_waiting_for_the_first_version(serve, tmp_path):
    process = serve(path=tmp_path / "nowhere")
    wait_until(lambda: "Could not read base path" in process.log, 60)
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(10) == 0


def test_a_client_that_leaves_costs_nothing(serve):
    target = client(serve())
    calls = [slow_call(target, 5) for _ in range(2)]
    for call in calls:
        call.cancel()
    # The first runs on, as in TF Serving; the second was waiting and is dropped.
    assert target.predict("encoder", timeout=8).outputs


def test_a_port_in_use(base, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["model-server", "--model-base-path", str(base), "--port", port]) == 1
        assert f"127.0.0.1:{port}" in capfd.readouterr().err


def test_labels_at_the_start(tmp_path, capsys):
    config = tmp_path / "models.config"
    config.write_text(models.config_text("/models"))
    assert main(["model-server", "--model-config-file", str(config)]) == 1
    assert "which is not currently available for inference" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        ((), 2, "either --model-base-path or --model-config-file"),
        (("--model-base-path", "x", "--model-config-file", "y"), 2, "either"),
        (("--model-config-file", "/nowhere"), 1, "/nowhere"),
        (("--model-base-path", "x", "--max-batch-size", "0"), 1, "max_batch_size must be at least 1, got 0"),
        (("--model-base-path", "x", "--port", "70000"), 1, "port must be in [0, 65535], got 70000"),
    ],
)
def test_flags_that_make_no_sense(flags, code, text, capsys):
    assert main(["model-server", *flags]) == code
    assert text in capsys.readouterr().err
