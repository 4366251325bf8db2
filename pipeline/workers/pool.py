"""The pool: Beam's service for workers of environment EXTERNAL, each of them several processes."""

import logging
import threading
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.utils import thread_pool_executor

from pipeline.workers.group import WorkerGroup
from pipeline.workers.process import OPTIONS

_log = logging.getLogger(__name__)


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Serves `--environment_type=EXTERNAL --environment_config=<address>`. processes: of each worker.

    groups: the workers by id; what is over goes when another one begins.

    Nothing is staged: the job's code is what this environment holds. Whoever reaches the port can have code run, so it
    listens on loopback unless told otherwise.
    """

    def __init__(self, processes: int, host: str = "127.0.0.1", port: int = 0) -> None:
        if processes < 1:
            raise ValueError(f"a pool needs at least one process, got {processes}.")
        self._processes = processes
        self._lock = threading.Lock()
        self.groups: dict[str, WorkerGroup] = {}
        self._server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=OPTIONS)
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"{host}:{port}")
        self.address = f"{host}:{self.port}"

    def start(self) -> None:
        """Begins to listen."""
        self._server.start()

    def stop(self) -> None:
        """Stops listening; ends when all processes have."""
        self._server.stop(0).wait()
        with self._lock:
            groups = list(self.groups.values())
        for group in groups:
            group.stop()

    def StartWorker(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Starts a worker's processes."""
        self.StopWorker(request, context)
        try:
            group = WorkerGroup(request, self._processes)
        except grpc.RpcError as error:
            _log.exception("worker %s can't be started", request.worker_id)
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        with self._lock:
            for name in [name for name, other in self.groups.items() if other.over]:
                del self.groups[name]
            self.groups[request.worker_id] = group
            group.start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Ends a worker's processes."""
        with self._lock:
            group = self.groups.get(request.worker_id)
        if group is not None:
            group.stop()
        return beam_fn_api_pb2.StopWorkerResponse()
