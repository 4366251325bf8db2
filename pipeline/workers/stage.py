"""What a stage of a Beam job is to a pool: where elements come in and leave, and how they are told apart."""

import dataclasses
import itertools

from apache_beam.coders import coders
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_runner_api_pb2
from apache_beam.runners import pipeline_context

_SOURCE = "beam:runner:source:v1"
_SINK = "beam:runner:sink:v1"
_BYTES = "lookalike_bytes"


class UnsupportedStage(ValueError):
    """A stage whose bundles can't be divided among processes: it keeps state or sets timers."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A runner's ProcessBundleDescriptor. sources, sinks: transforms by which data comes in and leaves.

    data_url, state_url: where the runner serves the data and state of its bundles; state_url may be empty.
    """

    descriptor: beam_fn_api_pb2.ProcessBundleDescriptor
    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    data_url: str
    state_url: str

    def divide(self, data: bytes, most: int) -> list[bytes]:
        """Returns `data`, encoded elements one after the other, as at most `most` pieces of whole elements."""
        coder = self._element_coder()
        stream = coders.coder_impl.create_InputStream(data)
        ends: list[int] = []
        while stream.size() > 0:
            coder.decode_from_stream(stream, True)
            ends.append(len(data) - stream.size())
        if not ends:
            return [b""]
        pieces = min(most, len(ends))
        cuts = [0, *(ends[len(ends) * (piece + 1) // pieces - 1] for piece in range(pieces))]
        return [data[start:end] for start, end in itertools.pairwise(cuts)]

    def served_at(self, url: str) -> beam_fn_api_pb2.ProcessBundleDescriptor:
        """Returns the descriptor for a process that finds data and state at `url`."""
        copy = beam_fn_api_pb2.ProcessBundleDescriptor()
        copy.CopyFrom(self.descriptor)
        for name in (*self.sources, *self.sinks):
            spec = copy.transforms[name].spec
            port = _port(spec)
            port.api_service_descriptor.url = url
            spec.payload = port.SerializeToString()
        # No stage here has timers; a process that finds their address would open a stream there and swallow our input.
        copy.ClearField("timer_api_service_descriptor")
        if self.state_url:
            copy.state_api_service_descriptor.url = url
        return copy

    def _element_coder(self) -> coders.coder_impl.CoderImpl:
        plain = beam_fn_api_pb2.ProcessBundleDescriptor()
        for name, coder in self.descriptor.coders.items():
            plain.coders[name].CopyFrom(coder)
        # What only the job's own code can decode is wrapped in its length: there it is enough to know that.
        plain.coders[_BYTES].spec.urn = common_urns.coders.BYTES.urn
        for coder in plain.coders.values():
            if coder.spec.urn == common_urns.coders.LENGTH_PREFIX.urn:
                coder.component_coder_ids[:] = [_BYTES]
        port = _port(self.descriptor.transforms[self.sources[0]].spec)
        return pipeline_context.PipelineContext(plain).coders.get_by_id(port.coder_id).get_impl()


def read_stage(descriptor: beam_fn_api_pb2.ProcessBundleDescriptor) -> Stage:
    """Returns the stage that `descriptor` describes; raises UnsupportedStage."""
    sources, sinks = [], []
    for name, transform in descriptor.transforms.items():
        if transform.spec.urn == _SOURCE:
            sources.append(name)
        elif transform.spec.urn == _SINK:
            sinks.append(name)
        elif transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            pardo = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            if pardo.state_specs or pardo.timer_family_specs:
                raise UnsupportedStage(f"{transform.unique_name} keeps state or sets timers, which can't be divided.")
    if not sources:
        raise UnsupportedStage(f"stage {descriptor.id} has no input.")
    return Stage(
        descriptor=descriptor,
        sources=tuple(sorted(sources)),
        sinks=tuple(sorted(sinks)),
        data_url=_port(descriptor.transforms[sources[0]].spec).api_service_descriptor.url,
        state_url=descriptor.state_api_service_descriptor.url,
    )


def _port(spec: beam_runner_api_pb2.FunctionSpec) -> beam_fn_api_pb2.RemoteGrpcPort:
    return beam_fn_api_pb2.RemoteGrpcPort.FromString(spec.payload)
