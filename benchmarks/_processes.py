"""The processes that are measured: started as a person starts them, told how much they use, and always stopped."""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Iterator, Sequence

import psutil

from pipeline import processes
from serving.client import Client

REPOSITORY = pathlib.Path(__file__).parents[1]
_START_SECONDS = 180.0


def python_of(environment: str) -> str:
    """Returns the Python of an environment: `pipeline`, `serving` or `bench`."""
    if environment == "bench":
        return str(REPOSITORY / ".venv" / "bench" / "bin" / "python")
    return str(pathlib.Path(processes.environment_command(environment)).parent / "python")


class Measured:
    """A process with a port, and what it and its children have used."""

    def __init__(self, name: str, command: Sequence[str], folder: pathlib.Path, port: int = 0) -> None:
        """port: 0 for a free one, which stays the same over restarts."""
        self.name = name
        self._command = list(command)
        self._folder = folder
        self._port = port
        self._starts = 0
        self.start()

    def start(self) -> None:
        """Starts it, again where it has died; doesn't wait."""
        # A log of its own each time: what came before a death must not be lost.
        name = f"{self.name}-{self._starts}" if self._starts else self.name
        self._starts += 1
        self._process = processes.Process(name, [*self._command, "--port", str(self._port)], self._folder)
        self._psutil = psutil.Process(self._process.pid)

    @property
    def address(self) -> str:
        """HOST:PORT, once it listens."""
        self._port = self._process.wait_for_port(_START_SECONDS)
        return f"127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        # A zombie has ended too.
        return self._psutil.is_running() and self._psutil.status() != psutil.STATUS_ZOMBIE

    @property
    def log(self) -> str:
        """What it has said since its last start."""
        return self._process.log.read_text(errors="replace")

    def tail(self) -> str:
        """The end of what it has said."""
        return self._process.tail()

    def kill(self) -> None:
        """Kills it with SIGKILL, as the kernel does where memory runs out."""
        # A supervisor may put another one in its place at once.
        process = self._process
        os.kill(process.pid, signal.SIGKILL)
        process.stop()

    def freeze(self) -> None:
        """Stops it with SIGSTOP: its port takes connections, and nothing is answered."""
        self._psutil.suspend()

    def thaw(self) -> None:
        """Lets it go on."""
        self._psutil.resume()

    def stop(self) -> None:
        """Asks it to end, and waits."""
        self._process.stop()

    def cpu_seconds(self) -> float:
        """Seconds of processor that it and its children have used."""
        times = [process.cpu_times() for process in self._tree()]
        return sum(t.user + t.system for t in times)

    def peak_mib(self) -> float:
        """The most memory that it ever had (VmHWM), its children's added: shared pages count in each."""
        return sum(_status(process.pid, "VmHWM") for process in self._tree())

    def resident_mib(self) -> float:
        """The memory that it has (VmRSS), its children's added."""
        return sum(_status(process.pid, "VmRSS") for process in self._tree())

    def _tree(self) -> list[psutil.Process]:
        return [self._psutil, *self._psutil.children(recursive=True)]


def process_mib(pid: int) -> float:
    """Returns the memory (VmRSS) of a process, in MiB."""
    return _status(pid, "VmRSS")


def _status(pid: int, field: str) -> float:
    # From the kernel's own file: ru_maxrss of a child begins with its parent's.
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def started(name: str, command: Sequence[str], folder: pathlib.Path) -> Iterator[Measured]:
    """Runs a process for as long as the block lasts."""
    process = Measured(name, command, folder)
    try:
        yield process
    finally:
        process.stop()


def model_server_command(root: pathlib.Path) -> list[str]:
    """Returns how the model server of a serving root is started."""
    base = ["--model-name", "encoder", "--model-base-path", str(root / "encoders" / "encoder")]
    return [processes.environment_command("pipeline"), "model-server", *base]


def gateway_command(root: pathlib.Path, encoder: str, *flags: str) -> list[str]:
    """Returns how a gateway on a serving root is started."""
    command = [processes.environment_command("serving"), "gateway"]
    return [*command, "--serving-root", str(root), "--encoder", encoder, *flags]


class Service:
    """A model server and a gateway in front of it."""

    def __init__(self, model_server: Measured, gateway: Measured) -> None:
        self.model_server = model_server
        self.gateway = gateway

    def wait_until_serving(self, seconds: float = _START_SECONDS) -> None:
        """Waits for a release and its encoder to be served."""
        with Client(self.gateway.address) as client:
            try:
                client.wait_until_serving(seconds)
            except TimeoutError as error:
                logs = f"{self.gateway.tail()}\n{self.model_server.tail()}"
                raise RuntimeError(f"no release is served:\n{logs}") from error


@contextlib.contextmanager
def service(root: pathlib.Path, folder: pathlib.Path, *flags: str) -> Iterator[Service]:
    """Runs the service of a serving root. folder: for logs. flags: of the gateway."""
    with (
        started("model-server", model_server_command(root), folder) as model_server,
        started("gateway", gateway_command(root, model_server.address, *flags), folder) as gateway,
    ):
        running = Service(model_server, gateway)
        running.wait_until_serving()
        yield running


def say(text: str) -> None:
    """Prints progress."""
    print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)
