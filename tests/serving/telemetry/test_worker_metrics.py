"""What is told of the threads: real ones, with real jobs."""

import asyncio
import threading
import time

import pytest

from serving.search import errors
from serving.search.deadline import Deadline
from serving.telemetry.worker_metrics import MeteredWorkers


def told(workers: MeteredWorkers) -> dict[str, float]:
    return {
        s.name.removeprefix("lookalike_"): s.value for f in workers.collect() for s in f.samples if "le" not in s.labels
    }


async def until(workers: MeteredWorkers, **wanted: float) -> None:
    end = time.monotonic() + 5
    while not wanted.items() <= told(workers).items():
        assert time.monotonic() < end, told(workers)
        await asyncio.sleep(0.01)


def test_busy_waiting_and_refused() -> None:
    async def run() -> None:
        workers = MeteredWorkers(2, 3)
        go_on = threading.Event()
        jobs = [asyncio.ensure_future(workers.run(go_on.wait, deadline=Deadline(10))) for _ in range(5)]
        await until(workers, worker_threads=2, workers_busy=2, workers_waiting=3)
        with pytest.raises(errors.Overloaded):
            await workers.run(go_on.wait, deadline=Deadline(10))
        assert told(workers)["workers_refused_total"] == 1
        await asyncio.sleep(0.2)
        go_on.set()
        assert await asyncio.gather(*jobs) == [True] * 5
        await until(workers, workers_busy=0, workers_waiting=0)
        # Three waited for the other two; the refused one didn't wait.
        assert told(workers)["workers_wait_seconds_count"] == 6
        assert 0.6 <= told(workers)["workers_wait_seconds_sum"] < 3
        workers.close()

    asyncio.run(run())


def test_a_job_that_is_given_up_goes_on_counting_until_it_ends() -> None:
    async def run() -> None:
        workers = MeteredWorkers(1, 1)
        go_on = threading.Event()
        with pytest.raises(errors.DeadlineExceeded) as late:
            await workers.run(go_on.wait, deadline=Deadline(0.1))
        assert late.value.begun
        assert told(workers)["workers_busy"] == 1
        with pytest.raises(errors.DeadlineExceeded) as never:
            await workers.run(go_on.wait, deadline=Deadline(0.1))
        assert not never.value.begun
        go_on.set()
        await until(workers, workers_busy=0, workers_waiting=0)
        workers.close()

    asyncio.run(run())


def test_what_a_job_raises_and_returns_passes_through() -> None:
    async def run() -> None:
        workers = MeteredWorkers(1, 0)
        ended: list[int] = []
        assert await workers.run(divmod, 7, 2, deadline=Deadline(5), finally_=lambda: ended.append(1)) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await workers.run(divmod, 7, 0, deadline=Deadline(5), finally_=lambda: ended.append(2))
        await until(workers, workers_busy=0)
        assert ended == [1, 2]
        workers.close()

    asyncio.run(run())
