"""What a runner takes for one worker: it divides every bundle among several processes, and outlives them.

Beam's own runner for one machine, and Prism, give a bundle to one worker and give up when that worker is gone. So a
part whose process dies is given to another one, as Flink and Dataflow do; nothing that the dead one wrote is passed on.
"""

import dataclasses
import hashlib
import json
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
)
from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from google.protobuf import json_format

from pipeline.workers.bundle import Bundle, Part
from pipeline.workers.process import OPTIONS, PartFailed, WorkerDied, WorkerProcess
from pipeline.workers.stage import Stage, UnsupportedStage, read_stage

_log = logging.getLogger(__name__)

# Of each part: as often as Dataflow tries in a batch job.
MOST_ATTEMPTS = 4
# More than one for each process: they take unequally long, and of a part that is lost less has to be done again.
PARTS_EACH = 4
_LEAVE_SECONDS = 2.0


@dataclasses.dataclass
class Tally:
    """What one place in the group has done. pid: of its present process; died: how many have; seconds: at work."""

    pid: int = 0
    parts: int = 0
    died: int = 0
    seconds: float = 0.0


class WorkerGroup:
    """One worker of a runner. request: what the runner asked for. processes: how many."""

    def __init__(self, request: beam_fn_api_pb2.StartWorkerRequest, processes: int) -> None:
        self._worker_id = request.worker_id
        self._channels: dict[str, grpc.Channel] = {}
        self._control = beam_fn_api_pb2_grpc.BeamFnControlStub(self._channel(request.control_endpoint.url))
        provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(self._channel(request.provision_endpoint.url))
        info = provision.GetProvisionInfo(beam_provision_api_pb2.GetProvisionInfoRequest()).info
        logging_url = request.logging_endpoint.url or info.logging_endpoint.url
        self._environment = {
            "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
            "LOGGING_API_SERVICE_DESCRIPTOR": f'url: "{logging_url}"',
            "WORKER_ID": request.worker_id,
        }
        self._lock = threading.Lock()
        self._stages: dict[str, Stage] = {}
        self._bundles: dict[str, Bundle] = {}
        self._counters: dict[str, Any] = {}
        self._early: dict[str, list[beam_fn_api_pb2.Elements.Data]] = {}
        self._responses: queue.Queue[beam_fn_api_pb2.InstructionResponse | None] = queue.Queue()
        self._outputs: dict[str, queue.Queue[beam_fn_api_pb2.Elements | None]] = {}
        self._parts: queue.Queue[Part | None] = queue.Queue()
        self._processes: set[WorkerProcess] = set()
        self._leaving = False
        self.tallies = [Tally() for _ in range(processes)]
        self._call: Any = None
        self._threads = [threading.Thread(target=self._work, args=(tally,), daemon=True) for tally in self.tallies]
        self._obeying = threading.Thread(target=self._obey, daemon=True)

    def start(self) -> None:
        """Reports to the runner, and starts the processes."""
        for thread in (*self._threads, self._obeying):
            thread.start()

    @property
    def over(self) -> bool:
        """Whether the runner has left and all processes have ended."""
        return self._obeying.ident is not None and not self._obeying.is_alive()

    def stop(self) -> None:
        """Leaves the runner; ends when all processes have."""
        self._responses.put(None)
        self._obeying.join(_LEAVE_SECONDS)
        if self._obeying.is_alive() and self._call is not None:
            # The runner goes on, and would wait for what was never to come.
            self._call.cancel()
        self._obeying.join()

    def _channel(self, url: str) -> grpc.Channel:
        if url not in self._channels:
            channel = grpc.insecure_channel(url, options=OPTIONS)
            self._channels[url] = grpc.intercept_channel(channel, WorkerIdInterceptor(self._worker_id))
        return self._channels[url]

    def _obey(self) -> None:
        self._call = self._control.Control(iter(self._responses.get, None))
        try:
            for instruction in self._call:
                self._carry_out(instruction)
        except grpc.RpcError as error:
            # Beam's runners end a job by cutting off its workers.
            _log.debug("the runner has left worker %s: %s", self._worker_id, error)
        with self._lock:
            self._leaving = True
            for process in self._processes:
                # Where the job has failed one may still be at work, or wait for what only the runner can tell it.
                process.kill()
        for queue_ in self._outputs.values():
            queue_.put(None)
        for _ in self._threads:
            self._parts.put(None)
        for thread in self._threads:
            thread.join()
        for channel in self._channels.values():
            channel.close()
        for number, tally in enumerate(self.tallies):
            _log.info(
                "worker %s, process %d: %d parts in %.1f s, %d processes died",
                *(self._worker_id, number, tally.parts, tally.seconds, tally.died),
            )

    def _carry_out(self, instruction: beam_fn_api_pb2.InstructionRequest) -> None:
        kind = instruction.WhichOneof("request")
        if kind == "process_bundle":
            self._begin(instruction.instruction_id, instruction.process_bundle)
            return
        response = beam_fn_api_pb2.InstructionResponse(instruction_id=instruction.instruction_id)
        if kind == "register":
            with self._lock:
                for descriptor in instruction.register.process_bundle_descriptor:
                    self._stages[descriptor.id] = read_stage(descriptor)
        # Nothing else has to be done: a bundle is divided from the beginning, so there is nothing to split off it, and
        # counters come with its end.
        getattr(response, kind).SetInParent()
        if kind == "monitoring_infos":
            with self._lock:
                for identity in instruction.monitoring_infos.monitoring_info_id:
                    response.monitoring_infos.monitoring_info[identity].CopyFrom(self._counters[identity])
        self._responses.put(response)

    def _begin(self, name: str, request: beam_fn_api_pb2.ProcessBundleRequest) -> None:
        try:
            stage = self._stage(request.process_bundle_descriptor_id)
        except UnsupportedStage as error:
            self._fail(name, str(error))
            return
        bundle = Bundle(name, stage, request.process_bundle_descriptor_id)
        with self._lock:
            self._bundles[name] = bundle
            for data in (*self._early.pop(name, []), *request.elements.data):
                self._add(bundle, data)

    def _stage(self, name: str) -> Stage:
        with self._lock:
            stage = self._stages.get(name)
        if stage is None:
            asked = beam_fn_api_pb2.GetProcessBundleDescriptorRequest(process_bundle_descriptor_id=name)
            stage = read_stage(self._control.GetProcessBundleDescriptor(asked))
        with self._lock:
            self._stages[name] = stage
            if stage.data_url not in self._outputs:
                output: queue.Queue[beam_fn_api_pb2.Elements | None] = queue.Queue()
                self._outputs[stage.data_url] = output
                threading.Thread(target=self._exchange, args=(stage.data_url, output), daemon=True).start()
        return stage

    def _state(self) -> beam_fn_api_pb2_grpc.BeamFnStateStub:
        with self._lock:
            url = next(stage.state_url for stage in self._stages.values() if stage.state_url)
            return beam_fn_api_pb2_grpc.BeamFnStateStub(self._channel(url))

    def _exchange(self, url: str, output: "queue.Queue[beam_fn_api_pb2.Elements | None]") -> None:
        messages: Iterable[Any] = beam_fn_api_pb2_grpc.BeamFnDataStub(self._channel(url)).Data(iter(output.get, None))
        try:
            for elements in messages:
                for data in elements.data:
                    self._take(data)
        except grpc.RpcError as error:
            _log.debug("the runner has closed the data of worker %s: %s", self._worker_id, error)

    def _take(self, data: beam_fn_api_pb2.Elements.Data) -> None:
        with self._lock:
            bundle = self._bundles.get(data.instruction_id)
            if bundle is not None:
                self._add(bundle, data)
            else:
                # Control and data are two streams.
                self._early.setdefault(data.instruction_id, []).append(data)

    def _add(self, bundle: Bundle, data: beam_fn_api_pb2.Elements.Data) -> None:
        if bundle.add(data):
            for part in bundle.divide(PARTS_EACH * len(self.tallies)):
                self._parts.put(part)

    def _work(self, tally: Tally) -> None:
        process: WorkerProcess | None = None
        for part in self._pending():
            if process is None:
                process = self._process()
                if process is None:
                    break
                tally.pid = process.pid
            if part is None or part.bundle.over:
                continue
            part.attempts += 1
            began = time.monotonic()
            try:
                output = process.run(part)
            except WorkerDied as error:
                if self._leaving:
                    break
                _log.warning("%s Attempt %d of %s begins anew.", error, part.attempts + 1, part.bundle.stage_name)
                tally.died += 1
                self._close(process)
                process = None
                if part.attempts < MOST_ATTEMPTS:
                    self._parts.put(part)
                else:
                    self._fail(part.bundle.name, f"the worker process died {part.attempts} times: {error}")
            except PartFailed as error:
                self._fail(part.bundle.name, str(error))
            else:
                tally.parts += 1
                self._finish(part, output)
            tally.seconds += time.monotonic() - began
        if process is not None:
            self._close(process)

    def _process(self) -> WorkerProcess | None:
        with self._lock:
            if self._leaving:
                return None
            process = WorkerProcess(self._stage, self._state, self._environment)
            self._processes.add(process)
            return process

    def _close(self, process: WorkerProcess) -> None:
        with self._lock:
            self._processes.discard(process)
        process.close()

    def _pending(self) -> Iterator[Part | None]:
        # First nothing, so that a process starts before there is something to do: it takes it several seconds.
        yield None
        yield from iter(self._parts.get, None)

    def _finish(self, part: Part, output: Any) -> None:
        bundle = part.bundle
        with self._lock:
            if bundle.over or not bundle.finish(part, output):
                return
            del self._bundles[bundle.name]
        for elements in bundle.elements():
            self._outputs[bundle.stage.data_url].put(elements)
        response = beam_fn_api_pb2.InstructionResponse(instruction_id=bundle.name, process_bundle=bundle.response())
        self._shorten(response.process_bundle)
        self._responses.put(response)

    def _shorten(self, response: beam_fn_api_pb2.ProcessBundleResponse) -> None:
        # Prism knows counters only by short names, which a worker gives and explains when asked.
        with self._lock:
            for info in response.monitoring_infos:
                counter = type(info)(urn=info.urn, type=info.type, labels=info.labels)
                identity = hashlib.sha256(counter.SerializeToString(deterministic=True)).hexdigest()[:16]
                self._counters[identity] = counter
                response.monitoring_data[identity] = info.payload

    def _fail(self, name: str, error: str) -> None:
        with self._lock:
            bundle = self._bundles.pop(name, None)
            if bundle is not None:
                bundle.over = True
        self._responses.put(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=error))
