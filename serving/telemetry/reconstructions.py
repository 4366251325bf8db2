"""Asks the encoder to reconstruct a sample of the images that were just encoded, behind the requests' backs."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric

from serving.search import errors
from serving.search.encoder import Reconstruction
from serving.telemetry.release_drift import ReleaseDrift

_SECONDS = 5.0
Reconstruct = Callable[..., Awaitable[Reconstruction]]


class Reconstructions:
    """One image at a time, and none where one is under way: no answer waits for it, and the encoder hardly notices."""

    def __init__(
        self, reconstruct: Reconstruct, drift: ReleaseDrift, rate: float, chance: Callable[[], float] = random.random
    ) -> None:
        """reconstruct: as TfServingEncoder's. drift: is told the errors. rate: the share of images, in [0, 1]."""
        self._reconstruct = reconstruct
        self._drift = drift
        self._rate = rate
        self._chance = chance
        self._task: asyncio.Task[None] | None = None
        self._outcomes = {"measured": 0, "failed": 0, "busy": 0}

    def offer(self, images: Sequence[bytes], model: str, version: int) -> None:
        """Takes canonical images that were embedded, and chooses at most one of them; returns at once."""
        if not self._rate or self._chance() >= self._rate * len(images):
            return
        if not self._drift.compares_errors(model, version):
            return
        if self._task is not None and not self._task.done():
            self._outcomes["busy"] += 1
            return
        image = images[int(self._chance() * len(images))]
        self._task = asyncio.create_task(self._measure(image, model, version))

    def close(self) -> None:
        """Gives up what is under way."""
        if self._task is not None:
            self._task.cancel()

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        family = CounterMetricFamily(
            "lookalike_reconstructions",
            "Query images chosen to be reconstructed, by what came of it.",
            labels=["outcome"],
        )
        for outcome, count in self._outcomes.items():
            family.add_metric([outcome], count)
        yield family

    async def _measure(self, image: bytes, model: str, version: int) -> None:
        try:
            made: Any = await self._reconstruct([image], model=model, version=version, timeout=_SECONDS)
        except errors.RetrievalError:
            # What matters of it is seen in the calls that requests wait for.
            self._outcomes["failed"] += 1
            return
        self._outcomes["measured"] += 1
        self._drift.reconstructed(model, version, float(made.errors[0]))
