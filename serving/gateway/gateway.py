"""The gateway: everything put together, from start to drain."""

import asyncio
import gc
import logging
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2_grpc

from lookalike.leaf.v1 import leaf_pb2, leaf_pb2_grpc
from lookalike.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from serving.encoders.batching import BatchingEncoder
from serving.encoders.guarded import GuardedEncoder
from serving.encoders.tfserving import TfServingEncoder
from serving.gateway import conversion, wire
from serving.gateway.admission import Admission
from serving.gateway.config import ConfigError, GatewayConfig
from serving.gateway.connections import server_options
from serving.gateway.examination import Examiner
from serving.gateway.generic_handlers import GenericHandlers
from serving.gateway.health import Health
from serving.gateway.request_log import RequestLog
from serving.gateway.root import Root
from serving.gateway.service import RetrievalServicer
from serving.gateway.shedding import SheddingLayer, kind_of
from serving.gateway.status import AbortingLayer
from serving.gateway.watcher import Watcher
from serving.images import ImageLimits
from serving.journal.writer import JournalWriter
from serving.leaves import messages
from serving.leaves.service import LeafServicer
from serving.release.items import Item
from serving.release.layout import CURRENT
from serving.release.release import Release
from serving.search.catalog import Catalog
from serving.search.decoding import Decoder
from serving.search.embedding import Embedder
from serving.search.following import Following, NotFollowing
from serving.search.held import Held
from serving.search.leaf_search import LeafSearch
from serving.search.searcher import Searcher
from serving.search.updates import Updates
from serving.search.workers import Workers
from serving.security.access import access_layers
from serving.security.tls import encoder_credentials, server_credentials
from serving.storage import LocalStore, open_store
from serving.telemetry.guard_metrics import GuardMetrics
from serving.telemetry.query_metrics import MeteredRetrieval
from serving.telemetry.telemetry import Telemetry
from serving.telemetry.update_metrics import UpdateMetrics
from serving.telemetry.worker_metrics import MeteredWorkers

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing

# How long a thread may keep Python's lock from the others. By default 5 ms, and a query takes the lock several times:
# while a release is loaded each would take tens of milliseconds.
_SWITCH_SECONDS = 0.0005
_log = logging.getLogger(__name__)


class Gateway:
    """A gateway in the running event loop: `start`, then `drain`."""

    def __init__(self, config: GatewayConfig, tracing: "Tracing | None" = None) -> None:
        """tracing: in place of what `config.monitoring` says of traces."""
        self._config = config
        descriptor = _service(leaf=config.fan_out.is_leaf)
        service = descriptor.full_name
        self._telemetry = Telemetry(config.monitoring, tracing, descriptor)
        limits = ImageLimits(max_bytes=min(ImageLimits().max_bytes, config.limits.request_bytes))
        try:
            store = open_store(config.serving_root)
        except ValueError as error:
            raise ConfigError(f"serving_root: {error}") from error
        # Releases of an object store are searched from a verified copy; without a place for it, it lasts as long as we.
        self._temporary = None
        cache = None if config.cache is None else pathlib.Path(config.cache)
        if cache is None and store.local_path(CURRENT) is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="lookalike-gateway-")
            cache = pathlib.Path(self._temporary.name)
        self._held = Held(keep_releases=config.keep_releases, keep_seconds=config.keep_seconds)
        self._workers = MeteredWorkers(config.workers, config.queue)
        self._encoder = TfServingEncoder(
            config.encoder, self._telemetry.client_interceptors, encoder_credentials(config.security)
        )
        encoding = config.encoding
        batching = BatchingEncoder(
            self._telemetry.metered(self._encoder),
            images=encoding.batch_images,
            batches=encoding.batches,
            wait_seconds=encoding.batch_wait_seconds,
        )
        self._guarded = GuardedEncoder(
            batching,
            seconds=encoding.encode_seconds,
            failures=encoding.breaker_failures,
            pause=encoding.breaker_seconds,
        )
        # These two ask for versions that nobody is served from yet, so they ask the encoder itself.
        self._root = Root(config, self._telemetry.client_interceptors) if config.fan_out.is_root else None
        # A leaf's items go as they are to a root, which makes answers of them.
        self._render: Callable[[Item], Any] = messages.render if config.fan_out.is_leaf else conversion.render
        self._following = (Following if self._root is None else NotFollowing)(
            store, self._held, self._encoder, self._render, advise_items=config.updates.advise_items
        )
        examiner = None
        if self._root is None:
            examiner = Examiner(
                store,
                cache=cache,
                share=config.fan_out.share,
                items=config.cached_items,
                finish=bytes if config.fan_out.is_leaf else wire.item,
            )
        self._watcher = Watcher(
            store,
            self._held,
            self._encoder,
            self._prepare,
            self._following,
            cache=cache,
            share=config.fan_out.share,
            check_time=None if self._root is None else self._root.fan_out.check_held,
            examiner=examiner,
        )
        self._health = Health(service)
        self._tasks: list[asyncio.Task[None]] = []
        self.admission = Admission(config.limits.in_flight, config.limits.in_flight_bytes)
        self._server = grpc.aio.server(
            options=server_options(config.limits, config.connections, share_port=config.processes > 1)
        )
        handlers = GenericHandlers(
            [
                *self._telemetry.server_layers(
                    RequestLog(service, _answers(descriptor), config.logs.log_requests),
                    *access_layers(config.security, config.logs),
                    SheddingLayer(service, self.admission, kind_of),
                ),
                AbortingLayer(service),
            ]
        )
        catalog = Catalog(
            store, self._held, self._workers, refused=self._watcher.refused, current=lambda: self._watcher.wanted
        )
        self._decoder = Decoder(self._workers, limits, config.decoding)
        embedder = Embedder(self._guarded, self._decoder, self._telemetry.span)
        retrieval = (MeteredRetrieval if self._root is None else self._root.retrieval)(
            self._held, embedder, self._workers, self._telemetry.span, metrics=self._telemetry.queries
        )
        self._telemetry.watch(self._held, self._watcher, self._workers)
        self._telemetry.add(GuardMetrics(self.admission, self._decoder.processes, batching, self._guarded, self._held))
        if self._root is not None:
            self._telemetry.add(self._root.metrics)
        update_metrics = UpdateMetrics()
        self._telemetry.add(update_metrics)
        # A thread and a process of their own: what queries need is theirs.
        self._update_workers = Workers(1, config.updates.updates_in_flight)
        self._update_decoder = Decoder(self._update_workers, limits, config.decoding)
        updates = Updates(
            self._held,
            Embedder(self._guarded, self._update_decoder, self._telemetry.span),
            self._update_workers,
            self._following,
            JournalWriter(store) if config.takes_updates else None,
            in_flight=config.updates.updates_in_flight,
            max_items=config.updates.max_items,
            appended=update_metrics.appended,
        )
        forwarded = None if self._root is None else self._root.updates(self._held)
        update_metrics.watch(forwarded or updates, self._following)
        self._leaf: LeafSearch | None = None
        if config.fan_out.is_leaf:
            assert config.fan_out.share is not None
            self._leaf = LeafSearch(self._held, self._workers, config.fan_out.share, updates)
            leaf_servicer = LeafServicer(self._leaf, config.request_seconds)
            leaf_pb2_grpc.add_LeafServiceServicer_to_server(leaf_servicer, handlers)
        else:
            servicer = RetrievalServicer(retrieval, catalog, forwarded or updates, config.request_seconds)
            retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, handlers)
        if config.reflection:
            _add_reflection(handlers, service)
        self._server.add_generic_rpc_handlers((handlers,))

    async def start(self, process: int = 0) -> int:
        """Listens, begins to follow `CURRENT`, and returns the port; process: its number among several on that port.

        Raises OSError where it can't listen.
        """
        await self._health.begin()
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        address, security = f"{host}:{self._config.port}", self._config.security
        try:
            if security.encrypts:
                port = self._server.add_secure_port(address, server_credentials(security))
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}: is it taken?") from error
        self._telemetry.start(process)
        await self._server.start()
        _log.info("listening on %s:%d", host, port)
        if self._config.port_file is not None:
            # Whole or not at all: whoever waits for the file reads it the moment it appears.
            file = pathlib.Path(self._config.port_file)
            LocalStore(file.parent).write(file.name, f"{port}\n".encode())
        poll = self._config.poll_seconds
        if self._root is not None:
            self._spawn(self._root.watch())
            self._spawn(self._health.watch_coverage(self._covers_enough, self._config.fan_out.leaf_poll_seconds))
        self._spawn(self._watcher.run(poll, self._flipped))
        self._spawn(self._following.run_forever(self._config.updates.journal_seconds))
        self._spawn(self._health.watch_encoder(self._guarded, self._held, poll))
        return port

    async def drain(self) -> None:
        """Says NOT_SERVING, waits, lets running requests finish, and frees everything."""
        _log.info("draining")
        if self._leaf is not None:
            self._leaf.end()
        await self._health.drain()
        await asyncio.sleep(self._config.drain_seconds)
        await self._server.stop(self._config.grace_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._workers.close()
        self._update_workers.close()
        await self._following.close()
        for decoder in (self._decoder, self._update_decoder):
            await decoder.processes.close()
        await self._telemetry.close()
        await self._encoder.close()
        if self._root is not None:
            await self._root.close()
        self._watcher.close()
        self._held.flip(None)
        if self._temporary is not None:
            self._temporary.cleanup()

    async def _flipped(self) -> None:
        self._telemetry.flipped(self._held.current)
        await self._health.serving()

    def _covers_enough(self) -> bool:
        current = self._held.current
        if self._root is None or current is None:
            return False
        return self._root.fan_out.coverage(current.manifest) >= self._config.fan_out.min_coverage

    def _prepare(self, release: Release) -> Searcher[Any]:
        return Searcher(release, self._render, cached_items=self._config.cached_items)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # Held on to: the loop itself keeps only a weak reference.
        self._tasks.append(asyncio.create_task(work))


async def serve(
    config: GatewayConfig,
    *,
    process: int = 0,
    listening: Callable[[], None] = lambda: None,
    end_with: int | None = None,
) -> None:
    """Runs a gateway until SIGTERM or SIGINT, then drains it; a second signal ends it at once.

    process: its number among several. listening: called when it does. end_with: a file whose end is a signal, too.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]

    def end() -> None:
        stop.set()
        for number in signals:
            # From now on it is the kernel's again.
            loop.remove_signal_handler(number)
        if end_with is not None:
            loop.remove_reader(end_with)

    for number in signals:
        loop.add_signal_handler(number, end)
    if end_with is not None:
        loop.add_reader(end_with, end)
    gateway = Gateway(config)
    # What is there by now stays. Python's collector would look at all of it again and again, 10 ms each time, for which
    # everything stands still.
    gc.collect()
    gc.freeze()
    await gateway.start(process)
    listening()
    await stop.wait()
    await gateway.drain()
    _log.info("stopped")


def _service(*, leaf: bool) -> Any:
    """Returns the descriptor of what a gateway serves, beside its health."""
    if leaf:
        return leaf_pb2.DESCRIPTOR.services_by_name["LeafService"]
    return retrieval_pb2.DESCRIPTOR.services_by_name["RetrievalService"]


def _answers(service: Any) -> dict[str, Callable[[bytes], Any]]:
    """Returns what reads the answers of each method."""
    return {m.name: message_factory.GetMessageClass(m.output_type).FromString for m in service.methods}


def _add_reflection(handlers: GenericHandlers, service: str) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection([service, reflection.SERVICE_NAME], handlers)
