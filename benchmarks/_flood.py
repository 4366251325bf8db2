"""A load generator that hardly costs anything: HTTP/2 by hand, over several connections, in one thread.

A process of its own, like benchmarks/_generator.py, and with the same jobs and figures; but it only knows calls of one
method with requests that are all made before. gRPC's client in Python takes 0.1 ms of a processor for a call, which is
half of what a gateway takes to answer it: three times the peak can't be generated so on the same two cores. Here a call
is two frames that were put together before, and some numbers in them: 0.01 ms.

Of HTTP/2 (RFC 9113) it does what a well-behaved client of a gRPC server must: settings, flow control of what it sends,
answers to pings, at most as many streams as the server allows; what more is due waits, and its latency counts from when
it was due. Headers need no compression (RFC 7541) when the table has no room: grpc-status stands there as text.
"""

import collections
import contextlib
import json
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._generator import Job, read_requests, summary

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEAD = struct.Struct(">BHBBI")
_MOST = 2**31 - 1
# gRPC's codes for what ends a stream without a status: gRPC over HTTP2, "Errors".
_CANCELLED, _UNAVAILABLE, _DEADLINE_EXCEEDED, _UNKNOWN = 1, 14, 4, 2
_OF_RESET = {7: _UNAVAILABLE, 8: _CANCELLED, 11: 8}
# A name and a value as they are: not indexed, not compressed.
_STATUS = re.compile(rb"grpc-status[\x01\x02](\d{1,2})")
_POLL_SECONDS = 0.001
_TICK_SECONDS = 0.002
_CONNECTIONS = 8
_Call = tuple[float, float, int]


class Connection:
    """One connection. Calls are (due, sent, request)."""

    def __init__(self, job: Job, requests: list[bytes], finished: Callable[[_Call, float, int], None]) -> None:
        """finished: told of a call, when it ended, and gRPC's code."""
        host, port = job.target.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._finished = finished
        block = _header_block(job)
        # All of a call but the number of its stream, which comes after the first and after the second part.
        self._parts = [
            (
                _head(_HEADERS, _END_HEADERS, len(block)),
                block + _head(_DATA, _END_STREAM, 5 + len(request)),
                struct.pack(">BI", 0, len(request)) + request,
            )
            for request in requests
        ]
        self._next = 1
        self._open: dict[int, _Call] = {}
        # Due, but the server takes no more now: no more streams, or no more bytes.
        self._waiting: collections.deque[tuple[float, int]] = collections.deque()
        # None before it has said so.
        self._streams = 0
        self._window = 65535
        self._timeout = job.timeout
        self._unread = b""
        self._read = 0
        self._unsent = bytearray(_PREFACE)
        # No table of headers, nothing pushed, and room for whatever comes.
        self._unsent += _frame(_SETTINGS, 0, 0, struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _MOST))
        self._unsent += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _MOST - 65535))

    @property
    def under_way(self) -> int:
        """How many calls have not ended."""
        return len(self._open) + len(self._waiting)

    def call(self, due: float, request: int) -> None:
        """Begins a call, or lets it wait until the server takes it."""
        self._waiting.append((due, request))
        self._begin()

    def flush(self) -> None:
        """Sends what there is to send, as far as it can be sent now."""
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                del self._unsent[: self.socket.send(self._unsent)]

    def receive(self) -> None:
        """Takes what has come."""
        try:
            data = self.socket.recv(2**20)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("the server has closed the connection.")
        self._read += len(data)
        if self._read > 2**30:
            self._unsent += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._read))
            self._read = 0
        self._take(self._unread + data, time.monotonic())
        self._begin()

    def give_up(self) -> None:
        """Counts what has not ended as late."""
        for call in (*self._open.values(), *((due, due, request) for due, request in self._waiting)):
            self._finished(call, time.monotonic(), _DEADLINE_EXCEEDED)

    def _begin(self) -> None:
        waiting, now = self._waiting, time.monotonic()
        while waiting and len(self._open) < self._streams:
            due, request = waiting[0]
            head, middle, end = self._parts[request]
            if len(end) > self._window:
                break
            waiting.popleft()
            if now > due + self._timeout:
                self._finished((due, due, request), now, _DEADLINE_EXCEEDED)
                continue
            self._window -= len(end)
            number = struct.pack(">I", self._next)
            self._unsent += b"".join((head, number, middle, number, end))
            self._open[self._next] = (due, now, request)
            self._next += 2

    def _take(self, data: bytes, now: float) -> None:
        at, most = 0, len(data)
        while at + _HEAD.size <= most:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + (high << 16 | low)
            if end > most:
                break
            if kind == _HEADERS:
                if flags & _END_STREAM and stream in self._open:
                    found = _STATUS.search(data, at, end)
                    self._finished(self._open.pop(stream), now, int(found[1]) if found else _UNKNOWN)
            elif kind != _DATA:
                self._control(kind, flags, stream, data[at + _HEAD.size : end], now)
            at = end
        self._unread = data[at:]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == _RST_STREAM and stream in self._open:
            (code,) = struct.unpack(">I", payload)
            self._finished(self._open.pop(stream), now, _OF_RESET.get(code, _UNKNOWN))
        elif kind == _SETTINGS and not flags & _ACK:
            settings = dict(struct.iter_unpack(">HI", payload))
            self._streams = settings.get(3, self._streams or _MOST)
            self._unsent += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._unsent += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack(">I", payload)[0]
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server has had enough: {payload[8:]!r}.")


class Flood:
    """One job being done."""

    def __init__(self, job: Job) -> None:
        self._job = job
        requests = read_requests(job.requests)
        self._requests = len(requests)
        self._connections = [Connection(job, requests, self._finished) for _ in range(_CONNECTIONS)]
        self._by_file = {connection.socket.fileno(): connection for connection in self._connections}
        self._epoll = select.epoll()
        for file in self._by_file:
            self._epoll.register(file, select.EPOLLIN)
        self._number = 0
        # due, sent, seconds, code, request
        self.calls: list[tuple[float, float, float, int, int]] = []

    def run(self) -> None:
        """Does the job: as many calls a second as asked for, or as many at once."""
        begun = time.monotonic()
        end = begun + self._job.seconds
        if self._job.rate:
            count = max(1, int(self._job.rate * self._job.seconds))
            gaps = np.random.default_rng(self._job.seed).exponential(1 / self._job.rate, count)
            times = (begun + np.cumsum(gaps)).tolist()
            while self._number < count:
                now = time.monotonic()
                while self._number < count and times[self._number] <= now:
                    self._call(times[self._number])
                # What comes within two milliseconds goes out together, and is looked at together: a turn for each took
                # a quarter of a processor more, from those who answer. Latencies come out longer so, never shorter.
                self._flush()
                time.sleep(_TICK_SECONDS)
                self._receive(0.0)
        else:
            while (now := time.monotonic()) < end:
                while sum(connection.under_way for connection in self._connections) < self._job.in_flight:
                    self._call(now)
                self._turn()
        # Each has ended by then, or never will.
        end = time.monotonic() + self._job.timeout + 1
        while time.monotonic() < end and any(connection.under_way for connection in self._connections):
            self._turn()
        for connection in self._connections:
            connection.give_up()
            connection.socket.close()
        self._epoll.close()

    def _call(self, due: float) -> None:
        connection = self._connections[self._number % _CONNECTIONS]
        connection.call(due, self._number % self._requests)
        self._number += 1

    def _turn(self) -> None:
        self._flush()
        self._receive(_POLL_SECONDS)

    def _flush(self) -> None:
        for connection in self._connections:
            connection.flush()

    def _receive(self, seconds: float) -> None:
        for file, _ in self._epoll.poll(seconds):
            self._by_file[file].receive()

    def _finished(self, call: _Call, ended: float, code: int) -> None:
        due, sent, request = call
        self.calls.append((due, sent, ended - sent, code, request))


def run(job: Job) -> dict[str, Any]:
    """Returns the figures of a job."""
    cpu, begun = time.process_time(), time.monotonic()
    flood = Flood(job)
    flood.run()
    elapsed = time.monotonic() - begun
    cpu = time.process_time() - cpu
    calls = np.array(flood.calls, np.float64).reshape(-1, 5)
    if job.trace:
        np.save(job.trace, calls, allow_pickle=False)
    lag = float((calls[:, 1] - calls[:, 0]).max()) if len(calls) else 0.0
    return {"elapsed": elapsed, "cpu": cpu / elapsed, "worst_lag": lag, "told": [], **summary(calls, elapsed)}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _head(kind, flags, len(payload)) + struct.pack(">I", stream) + payload


def _head(kind: int, flags: int, size: int) -> bytes:
    """Returns the head of a frame, up to the number of its stream."""
    return struct.pack(">BHBB", size >> 16, size & 0xFFFF, kind, flags)


def _header_block(job: Job) -> bytes:
    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    def named(name: str, value: str) -> bytes:
        return b"\x00" + text(name) + text(value)

    # Of the static table: POST, http, and the names of path, authority and content-type.
    block = b"\x83\x86\x04" + text(job.method) + b"\x01" + text(job.target) + b"\x0f\x10" + text("application/grpc")
    return block + named("te", "trailers") + named("grpc-timeout", f"{round(1000 * job.timeout)}m")


def main() -> None:
    """Does the jobs that come, until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(run(Job(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
