"""Several gateway processes on one port: starts them, starts again what dies, and ends them together."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

from serving.gateway.config import GatewayConfig
from serving.storage import LocalStore

# A process that dies sooner than this after its start waits before its next one, longer each time.
_STABLE_SECONDS = 10.0
_LONGEST_PAUSE = 30.0
_log = logging.getLogger(__name__)


class _Child:
    """One of the processes. number: from 0 on; a new one takes the place of a dead one."""

    def __init__(self, number: int, config: GatewayConfig, level: int) -> None:
        self.number = number
        self._start = {"config": dataclasses.asdict(config), "number": number, "level": level}
        self._pause = 0.0
        self._begun = 0.0
        self._process: subprocess.Popen[str] | None = None
        self.start_at: float | None = None
        self.listens = False
        self.code: int | None = None

    def start(self) -> IO[str]:
        """Starts it; returns what it tells by."""
        self.start_at, self.listens, self._begun, self.code = None, False, time.monotonic(), None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.gateway.process"],
            # Ends with us: then nothing is left for it to wait for.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(self._start) + "\n")
            self._process.stdin.flush()
        return self._process.stdout

    def read(self) -> bool:
        """Takes what it tells; returns whether it lives."""
        assert self._process is not None and self._process.stdout is not None
        if self._process.stdout.readline():
            self.listens = True
            return True
        self._process.stdout.close()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self.code = self._process.wait()
        return False

    def restart_later(self) -> None:
        """Says when it is to be started again."""
        lived = time.monotonic() - self._begun
        self._pause = 0.0 if lived > _STABLE_SECONDS else min(_LONGEST_PAUSE, max(0.5, 2 * self._pause))
        self.start_at = time.monotonic() + self._pause
        _log.error("process %d ended with %s; another one takes its place in %g s", self.number, self.code, self._pause)

    def send(self, number: int) -> None:
        """Sends it a signal, if it lives."""
        self.start_at = None
        if self._process is not None and self.code is None:
            self._process.send_signal(number)


class Supervisor:
    """Runs `config.processes` gateways until SIGTERM or SIGINT, then drains them; a second signal kills them."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._selector = selectors.DefaultSelector()
        self._children: list[_Child] = []
        self._signals = 0
        self._told = False
        self._failed = 0

    def run(self) -> int:
        """Returns the exit code: 0 where all of them ended in peace. Raises OSError where it can't listen."""
        with _reserved(self._config.host, self._config.port) as port, self._woken_by_signals():
            config = dataclasses.replace(self._config, port=port, port_file=None)
            level = logging.getLogger().getEffectiveLevel()
            self._children = [_Child(number, config, level) for number in range(config.processes)]
            for child in self._children:
                self._start(child)
            while any(child.code is None or child.start_at is not None for child in self._children):
                self._turn(port)
        _log.info("stopped")
        return self._failed

    def _turn(self, port: int) -> None:
        starts = [child.start_at for child in self._children if child.start_at is not None]
        timeout = None if not starts else max(0.0, min(starts) - time.monotonic())
        for key, _ in self._selector.select(timeout):
            key.data()
        for child in self._children:
            if child.start_at is not None and child.start_at <= time.monotonic():
                self._start(child)
        if not self._told and all(child.listens for child in self._children):
            self._told = True
            _log.info("listening on %s:%d with %d processes", self._config.host, port, len(self._children))
            if self._config.port_file is not None:
                file = pathlib.Path(self._config.port_file)
                LocalStore(file.parent).write(file.name, f"{port}\n".encode())

    def _start(self, child: _Child) -> None:
        told = child.start()
        self._selector.register(told, selectors.EVENT_READ, lambda: self._read(child, told))

    def _read(self, child: _Child, told: IO[str]) -> None:
        listened = child.listens
        if child.read():
            return
        self._selector.unregister(told)
        if self._signals:
            # One that had only just begun to start ends by the signal itself.
            self._failed = self._failed or int(child.code not in (0, -signal.SIGTERM))
        elif not listened and not self._told:
            # The first time it is not bad luck but a fault in what it was told: it has said which.
            self._failed = 2
            self._end(signal.SIGTERM)
        else:
            child.restart_later()

    def _end(self, number: int) -> None:
        self._signals += 1
        for child in self._children:
            child.send(number)

    def _signalled(self, reading: int) -> None:
        os.read(reading, 1)
        if self._signals:
            _log.warning("told to stop again: killing what still runs")
            self._end(signal.SIGKILL)
            self._failed = 1
        else:
            _log.info("draining %d processes", len(self._children))
            self._end(signal.SIGTERM)

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        reading, writing = os.pipe()
        self._selector.register(reading, selectors.EVENT_READ, lambda: self._signalled(reading))
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, lambda *_: os.write(writing, b"s")) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(reading)
            os.close(writing)


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Holds a port that only processes of ours can listen on; yields it. Raises OSError where somebody does already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host.strip("[]"), port)
    try:
        # Without SO_REUSEPORT: fails where anybody listens, also a gateway of several processes.
        with _bound(family, address):
            pass
        held = _bound(family, address, shared=True)
    except OSError as error:
        raise OSError(f"can't listen on {host}:{port}: is it taken? ({error.strerror})") from error
    with held:
        # Bound but not listening: it gets no connections.
        yield held.getsockname()[1]


def _bound(family: int, address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an earlier gateway that the kernel still remembers are no obstacle.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
        if not shared:
            # Two may be bound with SO_REUSEADDR, but not listen.
            bound.listen()
    except BaseException:
        bound.close()
        raise
    return bound
