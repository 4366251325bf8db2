"""A gateway as a person starts it: a process with a log."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from types import TracebackType

import psutil


class GatewayProcess:
    """Started on entry, killed on exit with all that it has started. flags: of `lookalike gateway`."""

    def __init__(self, folder: pathlib.Path, *flags: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._port_file = folder / "port"
        self._log = folder / "log"
        port = [] if "--port" in flags else ["--port", "0"]
        self._command = [sys.executable, "-m", "serving.cli", "gateway", "--poll-seconds", "0.1", *port, *flags]
        self._command += ["--port-file", str(self._port_file)]

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def port(self) -> int:
        """Waits until it listens."""
        end = time.monotonic() + 60
        while not self._port_file.exists():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        return int(self._port_file.read_text())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def children(self) -> list[psutil.Process]:
        """The processes behind it, where it is several; the first one first."""
        return sorted(psutil.Process(self.process.pid).children(), key=lambda child: child.create_time())

    def send(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Returns its exit code."""
        return self.process.wait(seconds)

    def __enter__(self) -> "GatewayProcess":
        self._port_file.unlink(missing_ok=True)
        with self._log.open("w") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It leads a session of its own: everything that it has started is in it, also where it is gone itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
