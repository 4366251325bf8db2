"""Starts our model server as a process, as everybody does."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

START_SECONDS = 120.0


class Process:
    """A model server that runs. address: HOST:PORT."""

    def __init__(self, popen: "subprocess.Popen[bytes]", folder: pathlib.Path) -> None:
        self.popen = popen
        self._folder = folder

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self._folder / "log").read_text()

    @property
    def listens(self) -> bool:
        """Whether the port is open."""
        return (self._folder / "port").exists()

    @property
    def address(self) -> str:
        """Where it listens; waits until it does."""
        self.wait_for_port()
        return f"127.0.0.1:{(self._folder / 'port').read_text().strip()}"

    def wait_for_port(self) -> None:
        """Waits until the server listens; raises where it ended instead."""
        wait_until(lambda: self.listens or self.popen.poll() is not None, START_SECONDS)
        if not self.listens:
            raise RuntimeError(f"The model server ended with {self.popen.returncode}:\n{self.log}")


@contextlib.contextmanager
def model_server(folder: pathlib.Path, *flags: str) -> Iterator[Process]:
    """Runs `lookalike model-server` with `flags` on a free port; `folder` takes its log and port file."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "serving.cli", "model-server", "--port", "0"]
    command += ["--port-file", str(folder / "port"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    with (folder / "log").open("wb") as log:
        popen = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        yield Process(popen, folder)
    finally:
        popen.terminate()
        try:
            popen.wait(30)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def wait_until(condition, seconds: float = 20.0) -> None:
    """Waits until `condition()` is true; raises AssertionError where it doesn't become so in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not so within {seconds:g} s")
        time.sleep(0.02)
