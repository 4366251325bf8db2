"""The model server as a whole: loads, then listens, then drains when it is told to stop."""

import asyncio
import concurrent.futures
import dataclasses
import gc
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.model_server.batching import BatchingOptions, BatchScheduler
from serving.model_server.config import LoadOptions, ModelConfig
from serving.model_server.errors import ServingError, from_exception, truncated
from serving.model_server.model_service import ModelService
from serving.model_server.model_store import ModelStore
from serving.model_server.prediction_service import PredictionService
from serving.model_server.servable import Servable, load_servable
from serving.model_server.warmup import warm_up
from serving.spare_time import SpareTime

_LOG = logging.getLogger(__name__)

# TF Serving's own, not the services' full names.
HEALTH_NAMES = ("", "ModelService", "PredictionService")
# How long a thread may keep Python's lock from the others. By default 5 ms, and a request takes the lock several times:
# while a version is loaded each would take tens of milliseconds.
_SWITCH_SECONDS = 0.0005
# How long a version that is loaded beside others may wait for spare time.
_PATIENCE_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """A model server. port: 0 picks a free one. batching: None runs every request by itself.

    drain_seconds: how long running requests may take after SIGTERM. The other fields: see the command's flags.
    """

    models: tuple[ModelConfig, ...]
    host: str = "127.0.0.1"
    port: int = 8500
    port_file: pathlib.Path | None = None
    loading: LoadOptions = dataclasses.field(default_factory=LoadOptions)
    batching: BatchingOptions | None = dataclasses.field(default_factory=BatchingOptions)
    tensor_content: bool = False
    allow_reload: bool = False
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must be in [0, 65535], got {self.port}.")
        if self.drain_seconds < 0:
            raise ValueError(f"drain_seconds must be at least 0, got {self.drain_seconds}.")


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raised with that error's status."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await handler.unary_unary(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                failure = from_exception(error)
                if failure.code == grpc.StatusCode.INTERNAL and not isinstance(error, ServingError):
                    _LOG.exception("%s failed.", handler_call_details.method)
                await context.abort(failure.code, truncated(failure.message))

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


async def serve(options: ServerOptions) -> None:
    """Runs until SIGTERM or SIGINT. Raises ServingError for an illegal configuration, OSError for a port in use."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    # TensorFlow's modules are 400,000 objects, and stay. Python's collector would look at all of them again and again,
    # 230 ms each time, for which everything stands still: whenever a version is loaded. (Not what comes later: of
    # versions that are unloaded nothing must stay.)
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = ModelStore(_loader(lambda: store.serves, warmup=options.loading.warmup), options.loading)
    batches = None if options.batching is None else BatchScheduler(options.batching)
    with concurrent.futures.ThreadPoolExecutor(thread_name_prefix="request") as executor:
        try:
            store.start(options.models)
            if await _loaded(store, stop, executor):
                await _listen(options, store, batches, stop, executor)
        finally:
            # In this order: a run that goes on after its time would keep its batch thread.
            await loop.run_in_executor(executor, store.stop)
            if batches is not None:
                batches.close()
    _LOG.info("Stopped.")


async def _loaded(store: ModelStore, stop: asyncio.Event, executor: concurrent.futures.Executor) -> bool:
    """Waits until the first versions are loaded or have failed; returns False when told to stop before that."""
    loading = asyncio.get_running_loop().run_in_executor(executor, store.wait_until_tried, store.model_names)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return not stop.is_set()


async def _listen(
    options: ServerOptions,
    store: ModelStore,
    batches: BatchScheduler | None,
    stop: asyncio.Event,
    executor: concurrent.futures.Executor,
) -> None:
    server = grpc.aio.server(
        interceptors=(ErrorInterceptor(),),
        options=(
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Two servers on one port would each get some of the requests.
            ("grpc.so_reuseport", 0),
        ),
    )
    prediction = PredictionService(store, batches, executor, tensor_content=options.tensor_content)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model = ModelService(store, executor, allow_reload=options.allow_reload)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    for name in HEALTH_NAMES:
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    address = f"{options.host}:{options.port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"can't listen on {address}: {error}") from error
    await server.start()
    _LOG.info("Model server listening on %s:%d.", options.host, port)
    if options.port_file is not None:
        _write_port(options.port_file, port)
    await stop.wait()
    _LOG.info("Draining: requests that run may take %g s more.", options.drain_seconds)
    await healthy.enter_graceful_shutdown()
    await server.stop(options.drain_seconds)


def _loader(serves: Callable[[], bool], *, warmup: bool) -> Callable[[str, int, pathlib.Path], Servable]:
    """serves: whether requests are answered meanwhile, which the load must not be felt by."""

    def load(name: str, version: int, folder: pathlib.Path) -> Servable:
        _LOG.info("Loading model %s version %d from %s.", name, version, folder)
        with SpareTime(_PATIENCE_SECONDS if serves() else 0.0) as spare_time:
            servable = load_servable(folder, spare_time)
            if warmup:
                try:
                    warm_up(servable, folder, spare_time)
                except BaseException:
                    servable.close()
                    raise
        return servable

    return load


def _write_port(path: pathlib.Path, port: int) -> None:
    # Whoever waits for the file must never read half a number.
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(f"{port}\n")
    beside.replace(path)
