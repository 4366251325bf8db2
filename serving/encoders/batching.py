"""Sends the images of requests that run at the same time to the encoder together: it is far faster so."""

import asyncio
import collections
import contextvars
import dataclasses
from collections.abc import Sequence

import numpy as np

from serving.search import errors
from serving.search.encoder import Embeddings, Encoder

_Key = tuple[str, int]
_Outcome = Embeddings | Exception


@dataclasses.dataclass
class _Waiting:
    """end: when it is too late, by the loop's clock. context: what its request is traced by. sent: to the encoder."""

    image: bytes
    end: float
    outcome: "asyncio.Future[Embeddings]"
    context: contextvars.Context
    sent: bool = False


class BatchingEncoder:
    """An Encoder in front of another: as many batches under way as allowed, and what comes meanwhile is the next one.

    So an image alone waits for nothing, and batches grow with the load. Requests of several images go by themselves.
    """

    def __init__(self, encoder: Encoder, *, images: int, batches: int, wait_seconds: float = 0.0) -> None:
        """images: in a batch at most. batches: under way at once. wait_seconds: for company where none is under way."""
        self._encoder = encoder
        self._most = images
        self._batches = batches
        self._wait = wait_seconds
        self._queues: dict[_Key, collections.deque[_Waiting]] = {}
        self._running: collections.Counter[_Key] = collections.Counter()
        self._timers: dict[_Key, asyncio.Handle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # How many images were sent in batches of which size, and how many waited too long and were not sent.
        self.sizes: collections.Counter[int] = collections.Counter()
        self.late = 0

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Embeddings:
        """See Encoder."""
        if len(images) != 1 or self._most == 1:
            return await self._encoder.encode(images, model=model, version=version, timeout=timeout)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(images[0], loop.time() + timeout, loop.create_future(), contextvars.copy_context())
        key = (model, version)
        self._queues.setdefault(key, collections.deque()).append(waiting)
        if self._running[key] < self._batches and key not in self._timers:
            # Soon, not now: whatever else arrived in this turn of the loop comes along.
            wait = 0.0 if self._running[key] else self._wait
            self._timers[key] = loop.call_later(wait, self._send, key) if wait else loop.call_soon(self._send, key)
        timer = loop.call_at(waiting.end, _expire, waiting)
        try:
            return await waiting.outcome
        finally:
            timer.cancel()

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        """See Encoder."""
        return await self._encoder.available(model=model, version=version, timeout=timeout)

    def _send(self, key: _Key) -> None:
        self._timers.pop(key, None)
        queue = self._queues.get(key)
        while queue and self._running[key] < self._batches:
            batch: list[_Waiting] = []
            while queue and len(batch) < self._most:
                waiting = queue.popleft()
                # Its time is over, or nobody waits for it any more.
                if waiting.outcome.done():
                    self.late += 1
                else:
                    waiting.sent = True
                    batch.append(waiting)
            if batch:
                self._running[key] += 1
                self.sizes[len(batch)] += 1
                # A call can be part of one trace: that of the image that waited longest.
                task = batch[0].context.run(asyncio.ensure_future, self._run(key, batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                _cancel_with_all(task, batch)
        if not queue and not self._running[key]:
            self._queues.pop(key, None)
            del self._running[key]

    async def _run(self, key: _Key, batch: Sequence[_Waiting]) -> None:
        try:
            end = max(waiting.end for waiting in batch)
            outcomes = await self._outcomes(key, [waiting.image for waiting in batch], end)
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if waiting.outcome.done():
                    continue
                if isinstance(outcome, Exception):
                    waiting.outcome.set_exception(outcome)
                else:
                    waiting.outcome.set_result(outcome)
        finally:
            self._running[key] -= 1
            self._send(key)

    async def _outcomes(self, key: _Key, images: Sequence[bytes], end: float) -> Sequence[_Outcome]:
        model, version = key
        timeout = end - asyncio.get_running_loop().time()
        try:
            embeddings = await self._encoder.encode(images, model=model, version=version, timeout=timeout)
        except errors.ImagesRejected as error:
            none = np.zeros((1, 0), np.float32)
            return [
                errors.ImagesRejected({0: error.reasons[i]}, none)
                if i in error.reasons
                else error.embeddings[i : i + 1]
                for i in range(len(images))
            ]
        except errors.EncoderFault as error:
            if len(images) == 1:
                return [error]
            # It may be the fault of one image: halves find it, and cost the others little.
            half = len(images) // 2
            parts = (self._outcomes(key, images[:half], end), self._outcomes(key, images[half:], end))
            return [outcome for part in await asyncio.gather(*parts) for outcome in part]
        except Exception as error:
            return [error] * len(images)
        return [embeddings[i : i + 1] for i in range(len(images))]


def _expire(waiting: _Waiting) -> None:
    if not waiting.outcome.done():
        what = "the encoder was asked" if waiting.sent else "the image waited for the encoder"
        waiting.outcome.set_exception(errors.DeadlineExceeded(f"the deadline passed while {what}.", begun=waiting.sent))


def _cancel_with_all(task: "asyncio.Task[None]", batch: Sequence[_Waiting]) -> None:
    """Gives a batch up once nobody waits for any of its images."""
    left = len(batch)

    def one_less(_: "asyncio.Future[Embeddings]") -> None:
        nonlocal left
        left -= 1
        if not left:
            task.cancel()

    for waiting in batch:
        waiting.outcome.add_done_callback(one_less)
