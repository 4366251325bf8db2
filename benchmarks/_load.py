"""The other end of the load generator: starts it, gives it jobs, reads what it saw."""

import json
import pathlib
import statistics
import struct
import subprocess
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._processes import REPOSITORY, python_of

SERVICE = "/lookalike.retrieval.v1.RetrievalService/"
_ANSWER = struct.Struct("<II")


class LoadGenerator:
    """A load generator process; a context manager."""

    def __init__(self, folder: pathlib.Path, module: str = "_generator") -> None:
        """folder: for files of requests and answers. module: `_generator`, or `_flood` that takes little itself."""
        self._folder = folder
        self._module = module
        self._process: subprocess.Popen[str] | None = None

    def requests(self, name: str, messages: Sequence[Any]) -> str:
        """Writes protobuf messages to a file of requests; returns its path."""
        file = self._folder / f"{name}.requests"
        with file.open("wb") as handle:
            for message in messages:
                data = message.SerializeToString()
                handle.write(struct.pack("<I", len(data)) + data)
        return str(file)

    def run(self, method: str, **job: Any) -> dict[str, Any]:
        """Does a job (see Job of benchmarks/_generator.py) and returns its figures; times are seconds."""
        self.begin(method, **job)
        return self.result()

    def begin(self, method: str, **job: Any) -> None:
        """Begins a job; `result` waits for its end."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps({"method": SERVICE + method, **job}) + "\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Returns the figures of the job that was begun."""
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {self._process.wait()}.")
        figures: dict[str, Any] = json.loads(line)
        return figures

    def __enter__(self) -> "LoadGenerator":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [python_of("serving"), "-m", f"benchmarks.{self._module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            # Where Linux shares processors out by sessions it is one of its own, as its clients would be.
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        try:
            # After a fault it may be in the midst of a job.
            self._process.wait(1 if kind else 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Trace:
    """The calls of a job, in the order in which they ended. Times are seconds of time.monotonic, float64 `[N]`."""

    def __init__(self, file: pathlib.Path) -> None:
        calls: npt.NDArray[np.float64] = np.load(file, allow_pickle=False)
        self.due, self.sent, self.seconds = calls[:, 0], calls[:, 1], calls[:, 2]
        self.codes, self.requests = calls[:, 3].astype(int), calls[:, 4].astype(int)
        self.ended = self.sent + self.seconds
        self.ok = self.codes == 0


def read_answers(file: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Yields the index of the request and the serialized answer, for every answer that was OK."""
    with file.open("rb") as handle:
        while head := handle.read(_ANSWER.size):
            request, size = _ANSWER.unpack(head)
            yield request, handle.read(size)


def median(figures: Sequence[dict[str, Any]], name: str) -> float:
    """Returns the median of one figure over several runs."""
    return statistics.median(run[name] for run in figures)


def percentile(values: npt.NDArray[np.float64], percent: float) -> float:
    """Returns a percentile; 0 of nothing."""
    return float(np.percentile(values, percent)) if len(values) else 0.0
