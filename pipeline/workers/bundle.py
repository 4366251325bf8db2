"""A bundle, and the parts that processes work on: divided when it is whole, put together when all parts are done."""

import dataclasses
from collections.abc import Iterator

from apache_beam.metrics import monitoring_infos
from apache_beam.portability.api import beam_fn_api_pb2

from pipeline.workers.stage import Stage

_MARK = "#"


@dataclasses.dataclass
class Part:
    """Some of a bundle's elements. inputs: encoded, by source. attempts: how often it was begun."""

    bundle: "Bundle"
    number: int
    inputs: dict[str, bytes]
    attempts: int = 0

    @property
    def name(self) -> str:
        """Its instruction's id, another one for each attempt."""
        return f"{self.bundle.name}{_MARK}{self.number}.{self.attempts}"


def bundle_name(part_name: str) -> str:
    """Returns the instruction id of the bundle that a part is of."""
    return part_name.rpartition(_MARK)[0]


@dataclasses.dataclass(frozen=True)
class PartOutput:
    """What a process made of a part. data: encoded elements by sink, as they came."""

    response: beam_fn_api_pb2.ProcessBundleResponse
    data: dict[str, list[bytes]]


class Bundle:
    """What a runner asked for by one instruction."""

    def __init__(self, name: str, stage: Stage, stage_name: str) -> None:
        self.name = name
        self.stage = stage
        self.stage_name = stage_name
        self.over = False
        self._inputs: dict[str, list[bytes]] = {source: [] for source in stage.sources}
        self._open = set(stage.sources)
        self._outputs: dict[int, PartOutput] = {}
        self._parts = 0

    def add(self, data: beam_fn_api_pb2.Elements.Data) -> bool:
        """Takes some input; returns whether that was the last of it."""
        if data.transform_id not in self._inputs:
            raise ValueError(f"bundle {self.name} has no input {data.transform_id!r}.")
        self._inputs[data.transform_id].append(data.data)
        if data.is_last:
            self._open.discard(data.transform_id)
        return not self._open

    def divide(self, most: int) -> list[Part]:
        """Returns its parts, at most `most`: no runner promises which elements come in one bundle."""
        inputs = {source: b"".join(data) for source, data in self._inputs.items()}
        self._inputs.clear()
        if len(inputs) == 1:
            [(source, data)] = inputs.items()
            divided = [{source: piece} for piece in self.stage.divide(data, most)]
        else:
            divided = [inputs]
        self._parts = len(divided)
        return [Part(self, number, piece) for number, piece in enumerate(divided)]

    def finish(self, part: Part, output: PartOutput) -> bool:
        """Keeps what became of a part; returns whether that was the last one."""
        self._outputs[part.number] = output
        self.over = len(self._outputs) == self._parts
        return self.over

    def elements(self) -> Iterator[beam_fn_api_pb2.Elements]:
        """Yields all output, in the order of the parts, as the runner expects it of one worker."""
        for sink in self.stage.sinks:
            for number in sorted(self._outputs):
                for data in self._outputs[number].data[sink]:
                    one = beam_fn_api_pb2.Elements.Data(instruction_id=self.name, transform_id=sink, data=data)
                    yield beam_fn_api_pb2.Elements(data=[one])
            last = beam_fn_api_pb2.Elements.Data(instruction_id=self.name, transform_id=sink, is_last=True)
            yield beam_fn_api_pb2.Elements(data=[last])

    def response(self) -> beam_fn_api_pb2.ProcessBundleResponse:
        """Returns the runner's answer: counters added up, and whatever a part left to be done later."""
        responses = [self._outputs[number].response for number in sorted(self._outputs)]
        infos = [info for response in responses for info in response.monitoring_infos]
        return beam_fn_api_pb2.ProcessBundleResponse(
            residual_roots=[root for response in responses for root in response.residual_roots],
            monitoring_infos=list(monitoring_infos.consolidate(infos)),
        )
