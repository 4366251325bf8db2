import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest

from serving.encoders.breaker import State
from serving.encoders.guarded import GuardedEncoder
from serving.search import errors
from serving.search.encoder import Embeddings
from tests.serving.loop_thread import LoopThread

ASK = {"model": "encoder", "version": 1}


class Scripted:
    """An Encoder that does what it is told. does: an exception to raise, seconds to sleep for, or None."""

    def __init__(self) -> None:
        self.does: object = None
        self.is_available = True
        self.timeouts: list[float] = []

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Embeddings:
        self.timeouts.append(timeout)
        if isinstance(self.does, Exception):
            raise self.does
        if isinstance(self.does, float):
            if self.does > timeout:
                await asyncio.sleep(timeout)
                raise errors.DeadlineExceeded("time is up.")
            await asyncio.sleep(self.does)
        return np.ones((len(images), 4), np.float32)

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        return self.is_available


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def guarded(scripted: Scripted) -> GuardedEncoder:
    return GuardedEncoder(scripted, seconds=0.5, failures=3, pause=0.2)


def fail(loop: LoopThread, guarded: GuardedEncoder, error: type[Exception], *, timeout: float = 30.0) -> str:
    with pytest.raises(error) as caught:
        loop.run(guarded.encode([b"x"], timeout=timeout, **ASK))
    return str(caught.value)


def test_fails_at_once_when_open_and_recovers(loop: LoopThread, scripted: Scripted, guarded: GuardedEncoder) -> None:
    scripted.does = errors.EncoderUnavailable("it can't be reached.")
    for _ in range(3):
        fail(loop, guarded, errors.EncoderUnavailable)
    assert "it can't be reached." in fail(loop, guarded, errors.EncoderUnavailable)
    assert len(scripted.timeouts) == 3, "the fourth was not sent"
    scripted.does = None
    time.sleep(0.2)
    assert loop.run(guarded.encode([b"x"], timeout=30, **ASK)).shape == (1, 4)
    assert guarded.breaker("encoder", 1).state is State.CLOSED


def test_an_encoder_that_hangs_counts_as_away(loop: LoopThread, scripted: Scripted, guarded: GuardedEncoder) -> None:
    scripted.does = 60.0
    for _ in range(3):
        assert "did not answer within 0.5 s" in fail(loop, guarded, errors.EncoderUnavailable)
    assert guarded.breaker("encoder", 1).state is State.OPEN


def test_the_encoder_gets_a_little_less_than_what_is_left(loop, scripted: Scripted, guarded: GuardedEncoder) -> None:
    for timeout in (0.05, 0.4, 30.0):
        loop.run(guarded.encode([b"x"], timeout=timeout, **ASK))
    assert scripted.timeouts == pytest.approx([0.045, 0.38, 0.5])


def test_clients_in_a_hurry_do_not_open_it_for_the_others(loop, scripted: Scripted, guarded: GuardedEncoder) -> None:
    scripted.does = 0.1
    for _ in range(6):
        fail(loop, guarded, errors.DeadlineExceeded, timeout=0.02)
    assert guarded.breaker("encoder", 1).state is State.CLOSED
    assert len(loop.run(guarded.encode([b"x"], timeout=30, **ASK))) == 1


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded("busy"),
        errors.EncoderFault("broken"),
        errors.ImagesRejected({0: "no image"}, np.zeros((1, 0), np.float32)),
    ],
)
def test_an_encoder_that_says_no_is_there(loop, scripted: Scripted, guarded: GuardedEncoder, error) -> None:
    scripted.does = error
    for _ in range(5):
        fail(loop, guarded, type(error))
    assert guarded.breaker("encoder", 1).state is State.CLOSED


def test_a_version_that_is_not_loaded_says_nothing_about_the_others(loop, scripted, guarded: GuardedEncoder) -> None:
    scripted.does = errors.EncoderUnavailable("version 1 is not loaded.")
    for _ in range(3):
        fail(loop, guarded, errors.EncoderUnavailable)
    scripted.does = None
    assert len(loop.run(guarded.encode([b"x"], model="encoder", version=2, timeout=30))) == 1


def test_one_that_is_cancelled_lets_another_try(loop: LoopThread, scripted: Scripted, guarded: GuardedEncoder) -> None:
    scripted.does = errors.EncoderUnavailable("gone.")
    for _ in range(3):
        fail(loop, guarded, errors.EncoderUnavailable)
    time.sleep(0.2)
    scripted.does = 0.3

    async def scenario() -> None:
        first = asyncio.ensure_future(guarded.encode([b"x"], timeout=30, **ASK))
        await asyncio.sleep(0.02)
        with pytest.raises(errors.EncoderUnavailable):
            await guarded.encode([b"x"], timeout=30, **ASK)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert len(await guarded.encode([b"x"], timeout=30, **ASK)) == 1

    loop.run(scenario())


def test_what_the_probe_for_health_finds_counts(loop, scripted: Scripted, guarded: GuardedEncoder) -> None:
    scripted.is_available = False
    for _ in range(3):
        assert not loop.run(guarded.available(timeout=1, **ASK))
    assert guarded.breaker("encoder", 1).state is State.OPEN
    scripted.is_available = True
    assert loop.run(guarded.available(timeout=1, **ASK))
    assert len(loop.run(guarded.encode([b"x"], timeout=30, **ASK))) == 1, "before its time is over"
