"""Starts the service on one machine: the model server and the gateway, each a process in its own environment."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from serving.client import Client

_POLL_SECONDS = 0.1


class ProcessError(RuntimeError):
    """A process that ended, or did not come up in time; shows the end of its log."""


class Process:
    """A `lookalike` command that listens on a port, with its log in `folder/<name>.log`."""

    def __init__(self, name: str, command: Sequence[str], folder: pathlib.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = folder / f"{name}.log"
        self._port_file = folder / f"{name}.port"
        self._port_file.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--port-file", str(self._port_file)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # Of its own group: Ctrl-C in the terminal is for whoever started it, who then stops it in order.
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_for_port(self, timeout: float) -> int:
        """Returns the port once it listens; raises ProcessError after `timeout` seconds, or where it ended."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ProcessError(f"{self.name} ended with status {self._process.returncode}.\n{self.tail()}")
            if self._port_file.exists() and (text := self._port_file.read_text().strip()):
                return int(text)
            time.sleep(_POLL_SECONDS)
        raise ProcessError(f"{self.name} did not listen within {timeout:.0f} s.\n{self.tail()}")

    def tail(self, lines: int = 20) -> str:
        """Returns the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout: float = 20.0) -> int:
        """Asks it to end, kills it after `timeout` seconds; returns its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


def environment_command(name: str) -> str:
    """Returns the `lookalike` command of the environment `pipeline` or `serving`.

    Both lie side by side, as the set-up makes them; `LOOKALIKE_PIPELINE` and `LOOKALIKE_SERVING` say otherwise.
    """
    told = os.environ.get(f"LOOKALIKE_{name.upper()}")
    command = pathlib.Path(told) if told else pathlib.Path(sys.prefix).parent / name / "bin" / "lookalike"
    if not command.exists():
        raise ProcessError(f"the {name} environment has no {command}; `make setup` makes it.")
    return str(command)


def start_model_server(serving_root: str, model: str, folder: pathlib.Path, port: int = 0) -> Process:
    """Starts the model server on the encoders of a serving root."""
    base = str(pathlib.Path(serving_root) / "encoders" / model)
    flags = ["--model-name", model, "--model-base-path", base, "--port", str(port)]
    return Process("model-server", [environment_command("pipeline"), "model-server", *flags], folder)


def start_gateway(
    serving_root: str, encoder: str, folder: pathlib.Path, port: int = 0, *, allow_updates: bool = False
) -> Process:
    """Starts a gateway on a serving root. encoder: `host:port` of a model server."""
    flags = ["--serving-root", serving_root, "--encoder", encoder, "--port", str(port)]
    if allow_updates:
        flags.append("--allow-updates")
    return Process("gateway", [environment_command("serving"), "gateway", *flags], folder)


def wait_until_serving(address: str, gateway: Process, timeout: float) -> str:
    """Returns the id of the release that the gateway at `address` serves, once it does.

    Raises ProcessError with the gateway's log where it doesn't within `timeout` seconds.
    """
    with Client(address) as client:
        try:
            client.wait_until_serving(timeout)
        except TimeoutError as error:
            raise ProcessError(f"the gateway serves no release.\n{gateway.tail()}") from error
        return client.get_release().release_id


def is_running(pid: int, folder: pathlib.Path) -> bool:
    """Returns whether a process of this id is there, and keeps its log in `folder`.

    An id that was written down may be another process' by now, after a reboot above all: that one is not ours to stop.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        # Where the system doesn't tell, its id is all there is to go by.
        return not pathlib.Path("/proc/self").exists()
    return any(pathlib.Path(os.fsdecode(argument)).parent == folder for argument in arguments if argument)


def stop_pid(pid: int, folder: pathlib.Path, timeout: float = 20.0) -> None:
    """Ends a process that another command started with its log in `folder`."""
    if not is_running(pid, folder):
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while is_running(pid, folder) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if is_running(pid, folder):
        os.kill(pid, signal.SIGKILL)
