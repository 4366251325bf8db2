"""The model server as a process of its own, for as long as a block of code runs."""

import os
import pathlib
import subprocess
import sys
import time
from types import TracebackType
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc

_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.1
_TAIL_BYTES = 4_000

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
END = get_model_status_pb2.ModelVersionStatus.END


class ModelServerError(RuntimeError):
    """The model server did not start, load or answer as it should; the message holds the end of its log."""


class ModelServerProcess:
    """`lookalike model-server` over one base path, on a free port of this machine.

    As a context manager it starts the server, waits until it listens, and always stops it. log: where it writes.
    """

    def __init__(self, base_path: pathlib.Path, model: str, scratch: pathlib.Path, *, start_seconds: float) -> None:
        self._base_path, self._model = base_path, model
        self._port_file, self.log = scratch / "port", scratch / "model-server.log"
        self._deadline_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Any = None

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> "ModelServerProcess":
        options = ["--model-name", self._model, "--model-base-path", str(self._base_path), "--port", "0"]
        # One try is enough: what fails here fails again.
        options += ["--port-file", str(self._port_file), "--max-load-retries", "0"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.cli", "model-server", *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            )
        try:
            port = self._wait_for_port()
        except BaseException:
            self._stop()
            raise
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", unlimited)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._channel is not None:
            self._channel.close()
        self._stop()

    def predict(self, request: Any, *, seconds: float = 60.0) -> Any:
        """Returns the PredictResponse; raises ModelServerError for any other status than OK."""
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        try:
            return stub.Predict(request, timeout=seconds)
        except grpc.RpcError as error:
            signature = request.model_spec.signature_name
            raise self.fault(f"Predict on {signature} failed: {error.code().name}: {error.details()}") from error

    def wait_until_available(self, version: int) -> None:
        """Returns once GetModelStatus says AVAILABLE; raises ModelServerError where it won't, or not in time."""
        stub = model_service_pb2_grpc.ModelServiceStub(self._channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model
        deadline, said = time.monotonic() + self._deadline_seconds, "nothing"
        while time.monotonic() < deadline:
            self._must_run()
            try:
                statuses = stub.GetModelStatus(request, timeout=10.0).model_version_status
                state = next((status for status in statuses if status.version == version), None)
                if state is not None and state.state == AVAILABLE:
                    return
                if state is not None and state.state == END:
                    raise self.fault(f"the server can't load the encoder: {state.status.error_message}")
                said = str(state or "no such version")
            except grpc.RpcError as error:
                said = f"{error.code().name}: {error.details()}"
            time.sleep(_POLL_SECONDS)
        raise self.fault(f"the encoder was not AVAILABLE within {self._deadline_seconds:.0f} s; GetModelStatus: {said}")

    def fault(self, message: str) -> ModelServerError:
        """Returns the error to raise, with the end of the server's log."""
        return ModelServerError(f"{message}\nThe model server's log ends:\n{self.log_tail()}")

    def log_text(self) -> str:
        """Returns all that the server has written."""
        return self.log.read_text(errors="replace")

    def log_tail(self) -> str:
        """Returns the last few thousand characters of it."""
        return self.log_text()[-_TAIL_BYTES:].strip() or "(empty)"

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + self._deadline_seconds
        while time.monotonic() < deadline:
            if self._port_file.exists() and (text := self._port_file.read_text().strip()):
                return int(text)
            self._must_run()
            time.sleep(_POLL_SECONDS)
        raise self.fault(f"the model server did not listen within {self._deadline_seconds:.0f} s.")

    def _must_run(self) -> None:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            raise self.fault(f"the model server ended with exit code {code}.")

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
