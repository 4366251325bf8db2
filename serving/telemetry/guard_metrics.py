"""What keeps the gateway alive: admission, limits of decoding, the queue of the encoder, its circuit breaker."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.encoders.batching import BatchingEncoder
from serving.encoders.breaker import State
from serving.encoders.guarded import GuardedEncoder
from serving.gateway.admission import Admission, Kind
from serving.search.decode_processes import DecodeProcesses
from serving.search.held import Held


class GuardMetrics:
    """Looks at them whenever Prometheus asks."""

    def __init__(
        self,
        admission: Admission,
        decoding: DecodeProcesses,
        batching: BatchingEncoder,
        guarded: GuardedEncoder,
        held: Held,
    ) -> None:
        self._admission = admission
        self._decoding = decoding
        self._batching = batching
        self._guarded = guarded
        self._held = held

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        admission = self._admission
        in_flight = GaugeMetricFamily("lookalike_requests_in_flight", "Requests at work, by kind.", labels=["kind"])
        refused = CounterMetricFamily(
            "lookalike_requests_refused", "Requests refused because too many were at work.", labels=["kind"]
        )
        for kind in Kind:
            in_flight.add_metric([kind.value], admission.in_flight[kind])
            refused.add_metric([kind.value], admission.refused[kind])
        refused.add_metric(["unread"], admission.refused[None])
        yield from (in_flight, refused)
        text = "Requests whose deadline had passed when they were looked at."
        yield CounterMetricFamily("lookalike_requests_late", text, admission.late)
        text = "Large images that took their decoding process too long or too much memory."
        yield CounterMetricFamily("lookalike_decode_processes_killed", text, self._decoding.killed)
        text = "Images that waited for the encoder until nobody waited for them."
        yield CounterMetricFamily("lookalike_encoder_images_dropped", text, self._batching.late)
        yield from self._breaker()

    def _breaker(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "lookalike_encoder_breaker", "1 for the state of the served encoder's circuit breaker.", labels=["state"]
        )
        opened = CounterMetricFamily("lookalike_encoder_breaker_opened", "Times that it opened.")
        refused = CounterMetricFamily("lookalike_encoder_breaker_refused", "Calls that it let fail at once.")
        release = self._held.current
        if release is not None:
            encoder = release.manifest.encoder
            breaker = self._guarded.breaker(encoder.model, encoder.version)
            for value in State:
                state.add_metric([value.value], int(breaker.state is value))
            opened.add_metric([], breaker.opened)
            refused.add_metric([], breaker.refused)
        yield from (state, opened, refused)
