"""One worker process: Beam's own Python harness, to which we are the runner, with one part of a bundle at a time."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.utils import thread_pool_executor

from pipeline.workers.bundle import Part, PartOutput, bundle_name
from pipeline.workers.stage import Stage

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
]
# To say the last of what it has to say: the harness does not end by itself when it has said so.
_STOP_SECONDS = 1.0


class WorkerDied(RuntimeError):
    """The process ended while it had work to do."""


class PartFailed(RuntimeError):
    """The job's own code raised; the message is its traceback."""


class WorkerProcess:
    """A process that runs parts, one after the other.

    stage: returns the stage of a name. state: the runner's service. environment: variables of the process.
    """

    def __init__(
        self,
        stage: Callable[[str], Stage],
        state: Callable[[], beam_fn_api_pb2_grpc.BeamFnStateStub],
        environment: Mapping[str, str],
    ) -> None:
        self._instructions: queue.Queue[beam_fn_api_pb2.InstructionRequest | None] = queue.Queue()
        self._inputs: queue.Queue[beam_fn_api_pb2.Elements | None] = queue.Queue()
        self._ended: queue.Queue[Exception | None] = queue.Queue()
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._part: Part | None = None
        self._data: dict[str, list[bytes]] = {}
        self._open: set[str] = set()
        self._response: beam_fn_api_pb2.InstructionResponse | None = None
        self._server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=OPTIONS)
        self._url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        servicer = _Runner(self, stage, state, self._url)
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(servicer, self._server)
        beam_fn_api_pb2_grpc.add_BeamFnDataServicer_to_server(servicer, self._server)
        beam_fn_api_pb2_grpc.add_BeamFnStateServicer_to_server(servicer, self._server)
        self._server.start()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::FutureWarning", "-m", "apache_beam.runners.worker.sdk_worker_main"],
            env={**os.environ, **environment, "CONTROL_API_SERVICE_DESCRIPTOR": f'url: "{self._url}"'},
            stdin=subprocess.DEVNULL,
        )
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def run(self, part: Part) -> PartOutput:
        """Works on a part until it is done; raises WorkerDied, or PartFailed where its code did."""
        stage = part.bundle.stage
        with self._lock:
            self._part, self._response = part, None
            self._data, self._open = {sink: [] for sink in stage.sinks}, set(stage.sinks)
        order = beam_fn_api_pb2.ProcessBundleRequest(process_bundle_descriptor_id=part.bundle.stage_name)
        self._instructions.put(beam_fn_api_pb2.InstructionRequest(instruction_id=part.name, process_bundle=order))
        for source, data in part.inputs.items():
            where = {"instruction_id": part.name, "transform_id": source}
            pieces = [beam_fn_api_pb2.Elements.Data(**where, data=data)] if data else []
            pieces.append(beam_fn_api_pb2.Elements.Data(**where, is_last=True))
            self._inputs.put(beam_fn_api_pb2.Elements(data=pieces))
        error = self._ended.get()
        with self._lock:
            self._part = None
        if error:
            raise error
        assert self._response is not None
        return PartOutput(self._response.process_bundle, self._data)

    def kill(self) -> None:
        """Kills the process; whoever waits for a part gets WorkerDied."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process."""
        self._instructions.put(None)
        self._inputs.put(None)
        if not self._gone.wait(_STOP_SECONDS):
            self._process.kill()
            self._gone.wait()
        self._server.stop(0)

    def answered(self, response: beam_fn_api_pb2.InstructionResponse) -> None:
        """Takes what the process says of an instruction."""
        with self._lock:
            if self._part is None or response.instruction_id != self._part.name:
                return
            self._response = response
            if response.error:
                self._ended.put(PartFailed(response.error))
            elif not self._open:
                self._ended.put(None)

    def wrote(self, elements: beam_fn_api_pb2.Elements) -> None:
        """Takes some output of the process."""
        with self._lock:
            for data in elements.data:
                if self._part is None or data.instruction_id != self._part.name:
                    continue
                if data.data:
                    self._data[data.transform_id].append(data.data)
                if data.is_last:
                    self._open.discard(data.transform_id)
                    if not self._open and self._response is not None and not self._response.error:
                        self._ended.put(None)

    def instructions(self) -> Iterator[beam_fn_api_pb2.InstructionRequest]:
        """Yields what the process shall do, until it shall end."""
        return iter(self._instructions.get, None)  # type: ignore[arg-type]

    def inputs(self) -> Iterator[beam_fn_api_pb2.Elements]:
        """Yields what it shall do it with."""
        return iter(self._inputs.get, None)  # type: ignore[arg-type]

    def _watch(self) -> None:
        status = self._process.wait()
        self._gone.set()
        self._ended.put(WorkerDied(f"worker process {self.pid} ended with status {status}."))


class _Runner(
    beam_fn_api_pb2_grpc.BeamFnControlServicer,
    beam_fn_api_pb2_grpc.BeamFnDataServicer,
    beam_fn_api_pb2_grpc.BeamFnStateServicer,
):
    """What the process takes for its runner. State is the real runner's, to which a part is its bundle."""

    def __init__(
        self,
        process: WorkerProcess,
        stage: Callable[[str], Stage],
        state: Callable[[], beam_fn_api_pb2_grpc.BeamFnStateStub],
        url: str,
    ) -> None:
        self._process = process
        self._stage = stage
        self._state = state
        self._url = url

    def Control(self, request_iterator: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Sends instructions, takes answers."""
        threading.Thread(target=_consume, args=(request_iterator, self._process.answered), daemon=True).start()
        yield from self._process.instructions()

    def GetProcessBundleDescriptor(self, request: Any, context: grpc.ServicerContext | None = None) -> Any:
        """Returns a stage, with us in the runner's place."""
        return self._stage(request.process_bundle_descriptor_id).served_at(self._url)

    def Data(self, request_iterator: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Sends input, takes output."""
        threading.Thread(target=_consume, args=(request_iterator, self._process.wrote), daemon=True).start()
        yield from self._process.inputs()

    def State(self, request_iterator: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Passes on what the process asks for: side inputs."""
        try:
            yield from self._state().State(_of_bundles(request_iterator))
        except grpc.RpcError:
            # One of the two ends is gone; whoever waits for an answer is told by that.
            return


def _of_bundles(requests: Iterable[Any]) -> Iterator[Any]:
    try:
        for request in requests:
            request.instruction_id = bundle_name(request.instruction_id)
            yield request
    except grpc.RpcError:
        # The process is gone, and nobody waits for answers.
        return


def _consume(messages: Iterable[Any], take: Callable[[Any], None]) -> None:
    try:
        for message in messages:
            take(message)
    except grpc.RpcError:
        # The process is gone; who waits for it is told by its end.
        pass
