"""How a bundle is divided and put together again, without any process."""

import pickle

import pytest
from apache_beam.coders import coders
from apache_beam.portability.api import beam_fn_api_pb2, beam_runner_api_pb2, metrics_pb2
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.workers.bundle import Bundle, Part, PartOutput, bundle_name
from pipeline.workers.stage import Stage, UnsupportedStage, read_stage


class Opaque(coders.Coder):
    """A coder that only the job's own process may use: whoever else unpickles it is found out."""

    def __reduce__(self):
        return pytest.fail, ("a pool must not load the job's code",)

    def encode(self, value: int) -> bytes:
        return b"x" * value

    def is_deterministic(self) -> bool:
        return True

    def to_runner_api_parameter(self, context):
        return "beam:coders:pickled_python:v1", pickle.dumps(self), ()


# What a runner sends where it doesn't know the coder of the values: KV<bytes, length-prefixed> in the global window.
CODER = coders.WindowedValueCoder(
    coders.TupleCoder([coders.BytesCoder(), coders.LengthPrefixCoder(Opaque())]), coders.GlobalWindowCoder()
)


def port(coder: str) -> bytes:
    return beam_fn_api_pb2.RemoteGrpcPort(
        coder_id=coder, api_service_descriptor={"url": "runner:1"}
    ).SerializeToString()


def stage(**transforms: beam_runner_api_pb2.PTransform) -> Stage:
    """Returns a stage that reads at `in` and writes at `out`, with more transforms."""
    context = PipelineContext()
    coder = context.coders.get_id(CODER)
    descriptor = beam_fn_api_pb2.ProcessBundleDescriptor(
        id="stage",
        coders=context.to_runner_api().coders,
        state_api_service_descriptor={"url": "runner:2"},
        timer_api_service_descriptor={"url": "runner:3"},
    )
    for name, urn in (("in", "beam:runner:source:v1"), ("out", "beam:runner:sink:v1")):
        spec = beam_runner_api_pb2.FunctionSpec(urn=urn, payload=port(coder))
        descriptor.transforms[name].CopyFrom(beam_runner_api_pb2.PTransform(spec=spec))
    for name, transform in transforms.items():
        descriptor.transforms[name].CopyFrom(transform)
    return read_stage(descriptor)


def encoded(count: int) -> list[bytes]:
    """Returns elements of growing length, each encoded."""
    impl = CODER.get_impl()
    elements = []
    for number in range(count):
        stream = coders.coder_impl.create_OutputStream()
        impl.encode_to_stream(WindowedValue((b"%d" % number, number), 0, (GlobalWindow(),)), stream, True)
        elements.append(stream.get())
    return elements


@pytest.mark.parametrize(("count", "most"), [(1, 4), (4, 4), (7, 4), (200, 8), (5, 1)])
def test_the_pieces_are_whole_elements_in_order_and_nearly_even(count, most):
    elements = encoded(count)
    pieces = stage().divide(b"".join(elements), most)
    assert len(pieces) == min(count, most)
    assert b"".join(pieces) == b"".join(elements)
    sizes = []
    for piece in pieces:
        size = 0
        while piece:
            assert piece.startswith(elements[sum(sizes) + size])
            piece = piece[len(elements[sum(sizes) + size]) :]
            size += 1
        sizes.append(size)
    assert max(sizes) - min(sizes) <= 1


def test_no_elements_are_one_empty_piece():
    assert stage().divide(b"", 4) == [b""]


def test_a_process_is_told_of_no_address_of_the_runner():
    told = stage().served_at("process:9").SerializeToString()
    assert b"process:9" in told
    assert not any(address in told for address in (b"runner:1", b"runner:2", b"runner:3"))


def test_what_keeps_state_or_has_no_input_is_refused_by_name():
    keeping = beam_runner_api_pb2.ParDoPayload()
    keeping.state_specs["seen"].SetInParent()
    spec = beam_runner_api_pb2.FunctionSpec(urn="beam:transform:pardo:v1", payload=keeping.SerializeToString())
    with pytest.raises(UnsupportedStage, match="Remember keeps state or sets timers"):
        stage(remember=beam_runner_api_pb2.PTransform(unique_name="Remember", spec=spec))
    with pytest.raises(UnsupportedStage, match="stage empty has no input"):
        read_stage(beam_fn_api_pb2.ProcessBundleDescriptor(id="empty"))


def counted(value: int) -> beam_fn_api_pb2.ProcessBundleResponse:
    info = metrics_pb2.MonitoringInfo(urn="u", type="beam:metrics:sum_int64:v1", payload=bytes([value]))
    return beam_fn_api_pb2.ProcessBundleResponse(monitoring_infos=[info])


def test_a_bundle_is_whole_with_its_last_input_and_done_with_its_last_part():
    bundle = Bundle("bundle-1", stage(), "stage")
    elements = encoded(3)
    where = {"instruction_id": "bundle-1", "transform_id": "in"}
    assert not bundle.add(beam_fn_api_pb2.Elements.Data(**where, data=elements[0]))
    assert not bundle.add(beam_fn_api_pb2.Elements.Data(**where, data=elements[1] + elements[2]))
    assert bundle.add(beam_fn_api_pb2.Elements.Data(**where, is_last=True))
    first, second = bundle.divide(2)
    assert first.inputs["in"] + second.inputs["in"] == b"".join(elements)
    assert not bundle.finish(second, PartOutput(counted(3), {"out": [b"c"]}))
    # In the order of the parts, whichever was done first, and counted together.
    assert bundle.finish(first, PartOutput(counted(4), {"out": [b"a", b"b"]}))
    sent = [message.data[0] for message in bundle.elements()]
    assert [one.data for one in sent] == [b"a", b"b", b"c", b""]
    assert [one.is_last for one in sent] == [False, False, False, True]
    assert {(one.instruction_id, one.transform_id) for one in sent} == {("bundle-1", "out")}
    assert [info.payload for info in bundle.response().monitoring_infos] == [bytes([7])]


def test_each_attempt_has_a_name_of_its_own_and_names_its_bundle():
    part = Part(Bundle("inst#7", stage(), "stage"), 2, {})
    names = {part.name}
    part.attempts += 1
    names.add(part.name)
    assert len(names) == 2
    assert {bundle_name(name) for name in names} == {"inst#7"}


def test_input_for_another_transform_is_an_error():
    with pytest.raises(ValueError, match="has no input 'elsewhere'"):
        Bundle("b", stage(), "stage").add(beam_fn_api_pb2.Elements.Data(transform_id="elsewhere"))
