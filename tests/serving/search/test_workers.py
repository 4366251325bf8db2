import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.workers import Workers
from tests.serving.loop_thread import LoopThread


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(threads=1, queue=1)
    yield workers
    workers.close()


def nothing() -> None:
    """What is called at the end."""


def test_returns_and_raises_what_the_function_does(loop: LoopThread, workers: Workers) -> None:
    assert loop.run(workers.run(divmod, 7, 2, deadline=Deadline(5), finally_=nothing)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        loop.run(workers.run(divmod, 7, 0, deadline=Deadline(5), finally_=nothing))


def test_what_does_not_fit_is_refused_and_capacity_comes_back(loop: LoopThread, workers: Workers) -> None:
    gate, ended = threading.Event(), []

    async def flood() -> list:
        calls = [workers.run(gate.wait, deadline=Deadline(5), finally_=lambda: ended.append(1)) for _ in range(5)]
        asyncio.get_running_loop().call_later(0.1, gate.set)
        return await asyncio.gather(*calls, return_exceptions=True)

    results = loop.run(flood())
    assert [type(r) for r in results] == [bool, bool, errors.Overloaded, errors.Overloaded, errors.Overloaded]
    assert len(ended) == 5
    assert loop.run(workers.run(len, "ab", deadline=Deadline(5), finally_=nothing)) == 2


def test_a_late_answer_is_a_deadline_exceeded_and_its_end_is_told_when_it_ends(loop, workers) -> None:
    gate, ended = threading.Event(), threading.Event()
    with pytest.raises(errors.DeadlineExceeded):
        loop.run(workers.run(gate.wait, deadline=Deadline(0.05), finally_=ended.set))
    assert not ended.wait(0.05)
    gate.set()
    assert ended.wait(2)


def test_what_waits_too_long_is_never_begun(loop, workers) -> None:
    gate, begun = threading.Event(), []

    async def scenario() -> None:
        first = asyncio.ensure_future(workers.run(gate.wait, deadline=Deadline(5), finally_=nothing))
        await asyncio.sleep(0.05)
        with pytest.raises(errors.DeadlineExceeded):
            await workers.run(begun.append, 1, deadline=Deadline(0.05), finally_=nothing)
        gate.set()
        await first

    loop.run(scenario())
    time.sleep(0.05)
    assert begun == []


def test_what_nobody_waits_for_any_more_is_never_begun(loop, workers) -> None:
    gate, begun, ended = threading.Event(), [], []

    async def scenario() -> None:
        first = asyncio.ensure_future(workers.run(gate.wait, deadline=Deadline(5), finally_=nothing))
        second = asyncio.ensure_future(
            workers.run(begun.append, 1, deadline=Deadline(5), finally_=lambda: ended.append(1))
        )
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        gate.set()
        await first

    loop.run(scenario())
    time.sleep(0.05)
    assert (begun, ended) == ([], [1])


def test_nothing_is_begun_after_the_deadline() -> None:
    with pytest.raises(errors.DeadlineExceeded):
        Deadline(0).left()
