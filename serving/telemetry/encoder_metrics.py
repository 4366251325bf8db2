"""Calls to the encoder: how they ended, how long they took, how many images they held."""

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.search import errors
from serving.search.encoder import Embeddings, Encoder
from serving.telemetry.histogram import SECONDS, SIZES, Histogram

# Outcome of a call by what it raised.
_OUTCOMES: dict[type[BaseException], str] = {
    errors.ImagesRejected: "rejected",
    errors.EncoderUnavailable: "unavailable",
    errors.EncoderFault: "fault",
    errors.Overloaded: "overloaded",
    errors.DeadlineExceeded: "deadline",
}
_OK, _CANCELLED = "ok", "cancelled"
Encoded = Callable[[Sequence[bytes], str, int], None]


class EncoderMetrics:
    """Counts calls. up: whether the encoder of the served release answered when it was last asked for its state."""

    def __init__(self) -> None:
        self._seconds = {outcome: Histogram(SECONDS) for outcome in (_OK, *_OUTCOMES.values(), _CANCELLED)}
        self._sizes = Histogram(SIZES)
        self._in_flight = 0
        self.up = False

    def begun(self, images: int) -> float:
        """Counts a call that begins; returns when."""
        self._in_flight += 1
        self._sizes.observe(images)
        return time.perf_counter()

    def ended(self, begun: float, error: BaseException | None) -> None:
        """Counts its end."""
        self._in_flight -= 1
        outcome = _OK if error is None else _OUTCOMES.get(type(error), _CANCELLED)
        self._seconds[outcome].observe(time.perf_counter() - begun)

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        seconds = HistogramMetricFamily(
            "lookalike_encoder_seconds", "Seconds of calls to the encoder.", labels=["outcome"]
        )
        for outcome, values in self._seconds.items():
            seconds.add_metric([outcome], values.buckets(), values.sum)
        yield seconds
        yield HistogramMetricFamily(
            "lookalike_encoder_batch_images",
            "Images in a call to the encoder.",
            buckets=self._sizes.buckets(),
            sum_value=self._sizes.sum,
        )
        yield GaugeMetricFamily("lookalike_encoder_in_flight", "Calls to the encoder under way.", self._in_flight)
        text = "1 where the served release's encoder answers, else 0."
        yield GaugeMetricFamily("lookalike_encoder_up", text, int(self.up))


class MeteredEncoder:
    """An encoder that is counted; see Encoder for its methods."""

    def __init__(self, encoder: Encoder, metrics: EncoderMetrics, encoded: Encoded) -> None:
        """encoded: told the canonical images, model and version of every call that went well."""
        self._encoder = encoder
        self._metrics = metrics
        self._encoded = encoded

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Embeddings:
        """See Encoder."""
        failed: BaseException | None = None
        begun = self._metrics.begun(len(images))
        try:
            embeddings = await self._encoder.encode(images, model=model, version=version, timeout=timeout)
        except BaseException as error:
            failed = error
            raise
        finally:
            self._metrics.ended(begun, failed)
        self._encoded(images, model, version)
        return embeddings

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        """See Encoder."""
        self._metrics.up = await self._encoder.available(model=model, version=version, timeout=timeout)
        return self._metrics.up
