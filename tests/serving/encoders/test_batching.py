import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from serving.encoders.batching import BatchingEncoder
from serving.search import errors
from serving.search.encoder import Embeddings
from tests.serving.loop_thread import LoopThread

ASK = {"model": "encoder", "version": 1}


class Numbers:
    """An Encoder of images that are numbers as text: the embedding is the number. What it does wrong is by number."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.batches: list[list[int]] = []
        self.versions: list[int] = []
        self.timeouts: list[float] = []
        self.rejected: set[int] = set()
        self.poisonous: set[int] = set()
        self.error: Exception | None = None
        self.cancelled = 0
        self.under_way = 0
        self.most_under_way = 0

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Embeddings:
        numbers = [int(image) for image in images]
        self.batches.append(numbers)
        self.versions.append(version)
        self.timeouts.append(timeout)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        if self.poisonous & set(numbers):
            raise errors.EncoderFault("NaN")
        rows = np.array(numbers, np.float32)[:, None]
        if bad := {i: "no image" for i, number in enumerate(numbers) if number in self.rejected}:
            raise errors.ImagesRejected(bad, rows)
        return rows

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        return True


async def ask(encoder: BatchingEncoder, number: int, *, timeout: float = 5.0, version: int = 1) -> float:
    rows = await encoder.encode([str(number).encode()], model="encoder", version=version, timeout=timeout)
    assert rows.shape == (1, 1)
    return float(rows[0, 0])


def ask_all(loop: LoopThread, encoder: BatchingEncoder, numbers: Sequence[int]) -> list:
    async def gather() -> list:
        return await asyncio.gather(*(ask(encoder, number) for number in numbers), return_exceptions=True)

    return loop.run(gather())


def test_one_alone_waits_for_nobody(loop: LoopThread) -> None:
    numbers = Numbers()
    assert loop.run(ask(BatchingEncoder(numbers, images=8, batches=1), 7)) == 7
    assert numbers.batches == [[7]]


def test_those_at_the_same_time_go_together_and_each_gets_its_own(loop: LoopThread) -> None:
    numbers = Numbers()
    encoder = BatchingEncoder(numbers, images=8, batches=2)
    assert ask_all(loop, encoder, range(20)) == list(range(20))
    assert [len(batch) for batch in numbers.batches] == [8, 8, 4]
    assert numbers.most_under_way == 2
    assert encoder.sizes == {8: 2, 4: 1}


def test_what_comes_while_batches_are_under_way_is_the_next_one(loop: LoopThread) -> None:
    numbers = Numbers(0.05)
    encoder = BatchingEncoder(numbers, images=64, batches=1)

    async def scenario() -> None:
        calls = []
        for number in range(10):
            calls.append(asyncio.ensure_future(ask(encoder, number)))
            await asyncio.sleep(0.001)
        assert await asyncio.gather(*calls) == list(range(10))

    loop.run(scenario())
    assert numbers.batches == [[0], list(range(1, 10))]


def test_may_wait_for_company(loop: LoopThread) -> None:
    numbers = Numbers()
    encoder = BatchingEncoder(numbers, images=64, batches=2, wait_seconds=0.05)

    async def scenario() -> None:
        first = asyncio.ensure_future(ask(encoder, 1))
        await asyncio.sleep(0.01)
        assert await asyncio.gather(first, ask(encoder, 2)) == [1, 2]

    loop.run(scenario())
    assert numbers.batches == [[1, 2]]


def test_an_image_that_is_refused_fails_alone(loop: LoopThread) -> None:
    numbers = Numbers()
    numbers.rejected = {3}
    outcomes = ask_all(loop, BatchingEncoder(numbers, images=8, batches=1), range(6))
    assert isinstance(outcomes.pop(3), errors.ImagesRejected)
    assert outcomes == [0, 1, 2, 4, 5]


def test_an_image_that_breaks_its_batch_fails_alone(loop: LoopThread) -> None:
    numbers = Numbers()
    numbers.poisonous = {5}
    outcomes = ask_all(loop, BatchingEncoder(numbers, images=64, batches=1), range(64))
    assert isinstance(outcomes.pop(5), errors.EncoderFault)
    assert outcomes == [n for n in range(64) if n != 5]
    assert len(numbers.batches) == 13, "halves: twice for each power of two"


def test_an_encoder_that_is_away_fails_all(loop: LoopThread) -> None:
    numbers = Numbers()
    numbers.error = errors.EncoderUnavailable("gone.")
    outcomes = ask_all(loop, BatchingEncoder(numbers, images=8, batches=1), range(4))
    assert [type(outcome) for outcome in outcomes] == [errors.EncoderUnavailable] * 4
    assert len(numbers.batches) == 1


def test_versions_are_never_mixed(loop: LoopThread) -> None:
    numbers = Numbers()
    encoder = BatchingEncoder(numbers, images=8, batches=1)

    async def scenario() -> None:
        await asyncio.gather(*(ask(encoder, number, version=1 + number % 2) for number in range(8)))

    loop.run(scenario())
    assert sorted(zip(numbers.versions, numbers.batches, strict=True)) == [(1, [0, 2, 4, 6]), (2, [1, 3, 5, 7])]


def test_several_images_of_one_request_go_by_themselves(loop: LoopThread) -> None:
    numbers = Numbers()
    rows = loop.run(BatchingEncoder(numbers, images=8, batches=1).encode([b"1", b"2"], timeout=5, **ASK))
    np.testing.assert_array_equal(rows, [[1], [2]])


def test_what_has_waited_too_long_is_not_sent(loop: LoopThread) -> None:
    numbers = Numbers(0.2)
    encoder = BatchingEncoder(numbers, images=8, batches=1)

    async def scenario() -> None:
        first = asyncio.ensure_future(ask(encoder, 1))
        await asyncio.sleep(0.02)
        hasty, gone, patient = (
            asyncio.ensure_future(ask(encoder, n, timeout=t)) for n, t in ((2, 0.05), (3, 5), (4, 5))
        )
        await asyncio.sleep(0.02)
        gone.cancel()
        with pytest.raises(errors.DeadlineExceeded, match="waited for the encoder") as caught:
            await hasty
        assert not caught.value.begun
        assert await asyncio.gather(first, patient) == [1, 4]

    loop.run(scenario())
    assert numbers.batches == [[1], [4]]
    assert encoder.late == 2


def test_a_batch_has_the_time_of_its_most_patient_and_nobody_waits_longer_than_his_own(loop: LoopThread) -> None:
    numbers = Numbers(0.3)
    encoder = BatchingEncoder(numbers, images=8, batches=1)

    async def scenario() -> None:
        hasty, patient = (asyncio.ensure_future(ask(encoder, n, timeout=t)) for n, t in ((1, 0.1), (2, 5.0)))
        with pytest.raises(errors.DeadlineExceeded, match="the encoder was asked") as caught:
            await hasty
        assert caught.value.begun
        assert await patient == 2

    loop.run(scenario())
    assert numbers.batches == [[1, 2]]
    assert numbers.timeouts == pytest.approx([5.0], abs=0.1)


def test_a_batch_that_nobody_waits_for_is_given_up_and_makes_room(loop: LoopThread) -> None:
    numbers = Numbers(5.0)
    encoder = BatchingEncoder(numbers, images=8, batches=1)

    async def scenario() -> None:
        calls = [asyncio.ensure_future(ask(encoder, n)) for n in range(3)]
        await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        numbers.seconds = 0.01
        assert await asyncio.wait_for(ask(encoder, 9), 1) == 9

    loop.run(scenario())
    assert numbers.cancelled == 1
    assert not encoder._queues and not encoder._running, "nothing is kept of what is over"
