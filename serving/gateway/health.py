"""Health by `grpc.health.v1`: the process (""), the service, and the encoder, each under a name of its own."""

import asyncio
import logging
from collections.abc import Callable

from grpc_health.v1 import health, health_pb2

from serving.search.encoder import Encoder
from serving.search.held import Held

SERVICE = "lookalike.retrieval.v1.RetrievalService"
ENCODER = "lookalike.encoder"
_ASK_SECONDS = 2.0
_AWAY_SECONDS = 0.25
_log = logging.getLogger(__name__)


class Health:
    """What is told to probes and load balancers. The service stays SERVING while the encoder is away."""

    def __init__(self, service: str = SERVICE) -> None:
        """service: the name under which it is told whether queries are answered."""
        self._service = service
        self.servicer = health.aio.HealthServicer()
        self._encoder: bool | None = None

    async def begin(self) -> None:
        """Says that nothing is served yet; the process itself is alive."""
        await self._set(self._service, False)
        await self._set(ENCODER, False)

    async def serving(self) -> None:
        """Says that a verified release is served."""
        await self._set(self._service, True)

    async def watch_coverage(self, enough: Callable[[], bool], poll_seconds: float) -> None:
        """Follows whether enough of the served release can be searched elsewhere, until cancelled."""
        while True:
            await self._set(self._service, enough())
            await asyncio.sleep(poll_seconds)

    async def drain(self) -> None:
        """Says NOT_SERVING under every name, for good."""
        await self.servicer.enter_graceful_shutdown()

    async def watch_encoder(self, encoder: Encoder, held: Held, poll_seconds: float) -> None:
        """Follows whether the encoder of the current release answers, until cancelled."""
        while True:
            release = held.current
            if release is not None:
                wanted = release.manifest.encoder
                answers = await encoder.available(model=wanted.model, version=wanted.version, timeout=_ASK_SECONDS)
                await self._encoder_is(answers, f"{wanted.model}/{wanted.version}")
            # Who waits for it to be back should know soon.
            await asyncio.sleep(poll_seconds if self._encoder else min(poll_seconds, _AWAY_SECONDS))

    async def _encoder_is(self, available: bool, name: str) -> None:
        if available != self._encoder:
            self._encoder = available
            if available:
                _log.info("encoder %s answers", name)
            else:
                _log.warning("encoder %s is away: queries by image fail", name)
        await self._set(ENCODER, available)

    async def _set(self, name: str, serving: bool) -> None:
        kind = health_pb2.HealthCheckResponse
        await self.servicer.set(name, kind.SERVING if serving else kind.NOT_SERVING)
