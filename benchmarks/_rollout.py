"""A Deployment on one machine: slots for its replicas and one more, and a rollout as Kubernetes does it."""

import contextlib
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks._processes import Measured

_READY_SECONDS = 180.0


class Slots:
    """Addresses, one more than there are replicas; a process in all but one of them.

    Clients know all of them: the one that is free stands for a pod that is not there, as in DNS it would not be.
    """

    def __init__(self, name: str, replicas: int, folder: pathlib.Path) -> None:
        self.name = name
        self._folder = folder
        self._ports = _free_ports(replicas + 1)
        self._processes: list[Measured | None] = [None] * (replicas + 1)
        self._starts = 0

    @property
    def address(self) -> str:
        """Of all slots."""
        return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self._ports)

    @property
    def addresses(self) -> list[str]:
        """Of the processes that run."""
        return [f"127.0.0.1:{p}" for p, process in zip(self._ports, self._processes, strict=True) if process]

    def start(self, slot: int, command: Callable[[pathlib.Path], Sequence[str]], ready: Callable[[str], bool]) -> None:
        """Starts a process in a slot and waits until it is ready. command: given a folder for its files."""
        self._starts += 1
        name = f"{self.name}-{self._starts}"
        process = Measured(name, command(self._folder / name), self._folder, self._ports[slot])
        self._processes[slot] = process
        address = process.address
        end = time.monotonic() + _READY_SECONDS
        while not ready(address):
            if time.monotonic() > end or not process.alive:
                raise RuntimeError(f"{name} does not become ready:\n{process.tail()}")
            time.sleep(0.1)

    def fill(self, command: Callable[[pathlib.Path], Sequence[str]], ready: Callable[[str], bool]) -> None:
        """Starts a process in every slot but one."""
        for slot in range(len(self._processes) - 1):
            self.start(slot, command, ready)

    def replace(
        self,
        number: int,
        command: Callable[[pathlib.Path], Sequence[str]],
        ready: Callable[[str], bool],
        *,
        ready_seconds: float,
        pause_seconds: float,
    ) -> None:
        """Restarts one: its successor is ready, and has been for a while, before it is told to end.

        number: of the restart, counted from 0; they go round. pause_seconds: before SIGTERM, as a preStop hook has it.
        """
        count = len(self._processes)
        free, old = (number - 1) % count, number % count
        process = self._processes[old]
        assert process is not None and self._processes[free] is None
        self.start(free, command, ready)
        time.sleep(ready_seconds + pause_seconds)
        process.stop()
        self._processes[old] = None

    def stop(self) -> None:
        """Ends all."""
        for process in self._processes:
            if process is not None:
                process.stop()


@contextlib.contextmanager
def stopping(*slots: Slots) -> Iterator[None]:
    """Ends the processes of all slots in the end, the last ones first."""
    try:
        yield
    finally:
        for each in reversed(slots):
            each.stop()


class InBackground:
    """Work in a thread; `result` raises what it raised."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Waits for its end."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
