"""Everything that looks at a gateway from outside, put together."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from lookalike.retrieval.v1 import retrieval_pb2
from serving.encoders.tfserving import TfServingEncoder
from serving.gateway.checks import ConfigError
from serving.gateway.interception import Layer
from serving.gateway.options import Monitoring
from serving.gateway.watcher import Watcher
from serving.release.release import Release
from serving.search.held import Held
from serving.search.spans import Span, no_span
from serving.telemetry.encoder_metrics import EncoderMetrics, MeteredEncoder
from serving.telemetry.exporter import Exporter, Source
from serving.telemetry.query_metrics import QueryMetrics
from serving.telemetry.reconstructions import Reconstructions
from serving.telemetry.release_drift import ReleaseDrift
from serving.telemetry.release_metrics import ReleaseMetrics
from serving.telemetry.rpc_metrics import RpcMetrics
from serving.telemetry.worker_metrics import MeteredWorkers

if TYPE_CHECKING:
    # OpenTelemetry is imported only where it is used.
    from serving.telemetry.tracing import Tracing

_log = logging.getLogger(__name__)


class Telemetry:
    """Gives a gateway its metered parts, looks at the others, and answers Prometheus.

    queries, rpcs: what counts queries and requests. span: of a request's steps. client_interceptors: of the channel to
    the encoder.
    """

    def __init__(
        self,
        options: Monitoring,
        tracing: "Tracing | None" = None,
        service: Any = retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"],
    ) -> None:
        """tracing: in place of one to options.trace_endpoint. service: the descriptor of what is served."""
        self._service = service.full_name
        self._options = options
        self._drift = ReleaseDrift()
        self.queries = QueryMetrics(self._drift.scored)
        self.rpcs = RpcMetrics(self._service, [method.name for method in service.methods])
        self._sources: list[Source] = [self.rpcs, self.queries, self._drift]
        self._releases: ReleaseMetrics | None = None
        self._reconstructions: Reconstructions | None = None
        self._exporter: Exporter | None = None
        self._tracing = tracing
        if tracing is None and options.trace_endpoint is not None:
            self._tracing = _tracing_to(options.trace_endpoint, options.trace_requests)
        self.span: Span = no_span if self._tracing is None else self._tracing.span
        self.client_interceptors = () if self._tracing is None else (self._tracing.client_interceptor(),)

    def server_layers(self, *guards: Layer) -> list[Layer]:
        """Returns the layers around `guards`, and inside of them: all is counted, and what was let in is traced."""
        traced = [] if self._tracing is None else [self._tracing.server_layer(self._service)]
        return [self.rpcs, *guards, *traced]

    def metered(self, encoder: TfServingEncoder) -> MeteredEncoder:
        """Returns an encoder that counts its calls, and now and then has an image reconstructed."""
        metrics = EncoderMetrics()
        # Who nobody asks needs no sample.
        rate = 0.0 if self._options.metrics_port is None else self._options.reconstruct_images
        self._reconstructions = Reconstructions(encoder.reconstruct, self._drift, rate)
        self._sources += [metrics, self._reconstructions]
        return MeteredEncoder(encoder, metrics, self._reconstructions.offer)

    def watch(self, held: Held, watcher: Watcher, workers: MeteredWorkers) -> None:
        """Looks at these whenever Prometheus asks."""
        self._releases = ReleaseMetrics(held, watcher)
        self._sources += [self._releases, workers]

    def add(self, source: Source) -> None:
        """Looks at something else, too."""
        self._sources.append(source)

    def flipped(self, release: Release | None) -> None:
        """Must be told when another release is served."""
        if release is not None and self._releases is not None:
            self._drift.flipped(release)
            self._releases.flipped()

    def start(self, process: int = 0) -> None:
        """Listens for Prometheus where that is wanted; process: the number of this one among several.

        Raises OSError where it can't.
        """
        options = self._options
        if options.metrics_port is None:
            return
        self._exporter = Exporter(self._sources)
        # Processes have a port each: their metrics are theirs, and Prometheus adds up.
        port = options.metrics_port + process if options.metrics_port else 0
        file = options.metrics_port_file
        if file is not None and process:
            file = f"{file}.{process}"
        port = self._exporter.start(options.metrics_host, port, file)
        _log.info("metrics at http://%s:%d/metrics", options.metrics_host, port)

    async def close(self) -> None:
        """Stops listening, and sends the traces that are left."""
        if self._reconstructions is not None:
            self._reconstructions.close()
        if self._exporter is not None:
            # It looks up twice a second whether it should stop.
            await asyncio.to_thread(self._exporter.close)
        if self._tracing is not None:
            await self._tracing.close()


def _tracing_to(endpoint: str, rate: float) -> "Tracing":
    try:
        from serving.telemetry.tracing import Tracing

        return Tracing.to(endpoint, rate)
    except ImportError as error:
        raise ConfigError(
            f"monitoring.trace_endpoint needs the extra `tracing` (pip install 'lookalike[tracing]'): {error}"
        ) from error
