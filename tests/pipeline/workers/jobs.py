"""A pool of worker processes, Beam jobs for it to run, and the options that send them there."""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.workers.pool import WorkerPool

ROOT = pathlib.Path(__file__).parents[3]


@contextlib.contextmanager
def running_pool() -> Iterator[WorkerPool]:
    """Starts a pool of two processes, which find the tests' own code; stops it at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        pool = WorkerPool(2)
        pool.start()
        try:
            yield pool
        finally:
            pool.stop()


def options(address: str) -> list[str]:
    """Returns Beam's options for a job that the pool at `address` works on.

    The runner is Beam's own, which comes with it, unless LOOKALIKE_JOB_ENDPOINT names another: `make engine-test` does.
    """
    return [
        "--runner=PortableRunner",
        f"--job_endpoint={os.environ.get('LOOKALIKE_JOB_ENDPOINT', 'embed')}",
        "--environment_type=EXTERNAL",
        f"--environment_config={address}",
    ]


class Square(beam.DoFn):
    """Squares numbers, and counts them. At 13 its process is killed, as often as there are files in `lives`."""

    def __init__(self, lives: str) -> None:
        self._lives = pathlib.Path(lives)
        self._counter = Metrics.counter("test", "squared")

    def process(self, number: int, offset: int):
        if number == 13:
            for life in self._lives.iterdir():
                life.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        self._counter.inc()
        yield number % 3, (number * number + offset, os.getpid())


class Refuse(beam.DoFn):
    """Raises on one of the numbers."""

    def process(self, number: int):
        if number == 13:
            raise ValueError("thirteen is refused")
        yield number


class RefuseWhileBlocked(beam.DoFn):
    """Raises on one of the numbers while another one, in another process, is never done."""

    def __init__(self, blocked: str) -> None:
        self._blocked = pathlib.Path(blocked)

    def process(self, number: int):
        if number == 0:
            self._blocked.touch()
            while True:
                time.sleep(1)
        if number == 13:
            while not self._blocked.exists():
                time.sleep(0.05)
            raise ValueError("thirteen is refused")
        yield number


class Remember(beam.DoFn):
    """Keeps state, which no pool can divide."""

    SEEN = beam.transforms.userstate.CombiningValueStateSpec("seen", sum)

    def process(self, pair, seen=beam.DoFn.StateParam(SEEN)):  # noqa: B008 (so Beam has it)
        seen.add(1)
        yield pair


def run_squares(args: list[str], numbers: int, lives: pathlib.Path, output: pathlib.Path) -> dict[int, list]:
    """Squares the numbers below `numbers`, plus a side input of 1000; returns [(square, pid)] by remainder of 3."""
    pipeline = beam.Pipeline(options=PipelineOptions(args))
    offset = beam.pvalue.AsSingleton(pipeline | "Offset" >> beam.Create([1000]))
    _ = (
        pipeline
        | "Numbers" >> beam.Create(range(numbers))
        | "Spread" >> beam.Reshuffle()
        | "Square" >> beam.ParDo(Square(str(lives)), offset)
        | "Group" >> beam.GroupByKey()
        | "Write" >> beam.Map(write_group, str(output))
    )
    result = pipeline.run()
    result.wait_until_finish()
    [counter] = result.metrics().query(beam.metrics.MetricsFilter().with_name("squared"))["counters"]
    assert counter.committed == numbers
    groups = {}
    for file in output.iterdir():
        groups[int(file.name)] = [tuple(map(int, line.split())) for line in file.read_text().splitlines()]
    return groups


def write_group(group, folder: str) -> None:
    """Writes a group's (square, pid) pairs to the file that its key names."""
    key, pairs = group
    (pathlib.Path(folder) / str(key)).write_text("".join(f"{square} {pid}\n" for square, pid in pairs))
