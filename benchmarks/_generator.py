"""The load generator: a process of its own in the serving environment, so that what it costs can be told apart.

It reads jobs from stdin and writes what came of them to stdout, a line of JSON each; benchmarks/_load.py is the other
end. Requests are files of serialized messages, each behind its length, and are sent as they are.
"""

import asyncio
import dataclasses
import functools
import itertools
import json
import pathlib
import struct
import sys
import time
from typing import Any, BinaryIO

import grpc
import numpy as np

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A gateway that is back must be found again at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # What comes back is what the server said, the first time.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
# Where the target is several servers: each in turn, but none that is about to end.
_SPREAD = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "lookalike.retrieval.v1.RetrievalService"},
}
_LENGTH = struct.Struct("<I")
# Of an answer: index of the request, length of the response.
_ANSWER = struct.Struct("<II")
OK = grpc.StatusCode.OK.value[0]
_TOLD = 20


@dataclasses.dataclass
class Job:
    """Load on one method. in_flight: closed loop; or rate: open loop, Poisson, calls a second.

    seconds: how long. stop: file whose appearance ends an open loop before that. answers: file for the OK answers.
    trace: file for the times (of time.monotonic) of each call: due, sent, seconds, code, request.
    """

    target: str
    method: str
    requests: str
    seconds: float
    in_flight: int = 0
    rate: float = 0.0
    timeout: float = 10.0
    connections: int = 1
    answers: str = ""
    trace: str = ""
    stop: str = ""
    seed: int = 0


@functools.lru_cache(maxsize=16)
def read_requests(path: str) -> list[bytes]:
    """Returns the messages in a file of requests."""
    data, requests, at = pathlib.Path(path).read_bytes(), [], 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        requests.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return requests


class Run:
    """One job being done."""

    def __init__(self, job: Job, methods: list[Any], answers: BinaryIO | None) -> None:
        self._job = job
        self._methods = methods
        self._requests = read_requests(job.requests)
        self._numbers = itertools.count()
        self._answers = answers
        # due, sent, seconds, code, request
        self.calls: list[tuple[float, float, float, int, int]] = []
        self.worst_lag = 0.0
        # What the first calls that failed were told.
        self.told: list[str] = []

    async def closed(self) -> None:
        """Keeps `in_flight` calls under way until the time is up."""
        end = time.monotonic() + self._job.seconds

        async def caller() -> None:
            while (now := time.monotonic()) < end:
                await self._call(now)

        await asyncio.gather(*(caller() for _ in range(self._job.in_flight)))

    async def open(self) -> None:
        """Calls at random moments, `rate` a second, whatever has become of the calls before."""
        generator = np.random.default_rng(self._job.seed)
        count = max(1, int(self._job.rate * self._job.seconds))
        times = np.cumsum(generator.exponential(1 / self._job.rate, count)) + time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        for number, due in enumerate(times.tolist()):
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
            elif number % 16 == 0:
                # Behind: let what has come back be seen.
                await asyncio.sleep(0)
            if self._job.stop and number % 64 == 0 and pathlib.Path(self._job.stop).exists():
                break
            self.worst_lag = max(self.worst_lag, time.monotonic() - due)
            task = asyncio.create_task(self._call(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)

    async def _call(self, due: float) -> None:
        number = next(self._numbers)
        request = number % len(self._requests)
        method = self._methods[number % len(self._methods)]
        sent, code = time.monotonic(), OK
        try:
            answer = await method(self._requests[request], timeout=self._job.timeout)
        except grpc.aio.AioRpcError as error:
            code = error.code().value[0]
            if len(self.told) < _TOLD:
                self.told.append(f"call {number}, request {request}: {error.code().name}: {error.details()}")
        seconds = time.monotonic() - sent
        self.calls.append((due, sent, seconds, code, request))
        if self._answers is not None and code == OK:
            self._answers.write(_ANSWER.pack(request, len(answer)))
            self._answers.write(answer)


class Generator:
    """Does jobs, one at a time; keeps its connections."""

    def __init__(self) -> None:
        self._channels: dict[tuple[str, int], list[Any]] = {}

    async def run(self, job: Job) -> dict[str, Any]:
        """Returns the figures of a job."""
        key = job.target, job.connections
        if key not in self._channels:
            spread = (("grpc.service_config", json.dumps(_SPREAD)),) if "," in job.target else ()
            options = (*_OPTIONS, *spread)
            self._channels[key] = [grpc.aio.insecure_channel(job.target, options) for _ in range(job.connections)]
        methods = [channel.unary_unary(job.method) for channel in self._channels[key]]
        answers = open(job.answers, "ab") if job.answers else None  # noqa: SIM115 (closed below)
        run = Run(job, methods, answers)
        cpu, begun = time.process_time(), time.monotonic()
        try:
            await (run.open() if job.rate else run.closed())
        finally:
            if answers is not None:
                answers.close()
        elapsed = time.monotonic() - begun
        cpu = time.process_time() - cpu
        calls = np.array(run.calls, np.float64).reshape(-1, 5)
        if job.trace:
            np.save(job.trace, calls, allow_pickle=False)
        return {
            "elapsed": elapsed,
            "cpu": cpu / elapsed,
            "worst_lag": run.worst_lag,
            "told": run.told,
            **summary(calls, elapsed),
        }


def summary(calls: np.ndarray, elapsed: float) -> dict[str, Any]:
    """Returns the figures of calls: float64 `[N, 5]`, see Run. elapsed: seconds that they took."""
    codes = calls[:, 3].astype(int)
    ok = calls[codes == OK, 2]
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    values, counts = np.unique(codes, return_counts=True)
    # Seconds; of nothing, NaN would not be JSON.
    percentiles = np.percentile(ok, (50, 99, 99.9)).tolist() if len(ok) else [0.0, 0.0, 0.0]
    return {
        "calls": len(calls),
        "ok": len(ok),
        "rate": len(ok) / elapsed,
        "codes": {names[v]: int(c) for v, c in zip(values.tolist(), counts.tolist(), strict=True)},
        **dict(zip(("p50", "p99", "p999"), percentiles, strict=True)),
    }


async def main() -> None:
    """Does the jobs that come, until stdin ends."""
    generator = Generator()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        result = await generator.run(Job(**json.loads(line)))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
