"""Our small copy of TF Serving's messages says byte for byte what tensorflow_serving.apis says."""

import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2, status_pb2

from lookalike.tfserving.v1 import tfserving_pb2
from serving.model_server import tensors


def tensor(message_type, dtype, field, values, shape):
    message = message_type(dtype=dtype)
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    if field == "tensor_content":
        message.tensor_content = values
    else:
        getattr(message, field).extend(values)
    return message


TENSORS = {
    "strings": (types_pb2.DT_STRING, "string_val", [b"", b"\x00\xff", b"x" * 300], [3]),
    "floats": (types_pb2.DT_FLOAT, "float_val", [1.5, -0.0, float("inf"), 3e-45], [2, 2]),
    "floats as content": (types_pb2.DT_FLOAT, "tensor_content", b"\x00\x00\xc0?" * 4, [2, 2]),
    "pixels": (types_pb2.DT_UINT8, "int_val", [0, 127, 128, 255], [1, 2, 2, 1]),
    "pixels as content": (types_pb2.DT_UINT8, "tensor_content", bytes(range(8)), [1, 2, 2, 2]),
    "no rows": (types_pb2.DT_STRING, "string_val", [], [0]),
    "scalar": (types_pb2.DT_FLOAT, "float_val", [2.5], []),
}


@pytest.mark.parametrize("arguments", TENSORS.values(), ids=TENSORS)
def test_tensor(arguments):
    assert_same(tensor(tensor_pb2.TensorProto, *arguments), tensor(tfserving_pb2.Tensor, *arguments))


@pytest.mark.parametrize("arguments", list(TENSORS.values())[:5], ids=list(TENSORS)[:5])
def test_tensors_as_the_model_server_sends_them(arguments):
    theirs = tensor(tensor_pb2.TensorProto, *arguments)
    dtype = tf.dtypes.as_dtype(theirs.dtype)
    sent = tensors.encode(tensors.decode(theirs), dtype, as_content=bool(theirs.tensor_content))
    assert_same(sent, tensor(tfserving_pb2.Tensor, *arguments))


def spec(message, **fields):
    message.name = fields["name"]
    if "version" in fields:
        message.version.value = fields["version"]
    if "label" in fields:
        message.version_label = fields["label"]
    message.signature_name = fields.get("signature", "")
    return message


SPECS = [
    {"name": "encoder"},
    {"name": "encoder", "version": 1_700_000_000_123, "signature": "reconstruct"},
    {"name": "encoder", "version": 0},
    {"name": "ünï", "label": "stable"},
]


@pytest.mark.parametrize("fields", SPECS)
def test_model_spec(fields):
    assert_same(spec(model_pb2.ModelSpec(), **fields), spec(tfserving_pb2.ModelSpec(), **fields))


def test_predict_request():
    pair = []
    for request, tensor_type in (
        (predict_pb2.PredictRequest(), tensor_pb2.TensorProto),
        (tfserving_pb2.PredictRequest(), tfserving_pb2.Tensor),
    ):
        spec(request.model_spec, name="encoder", version=7)
        request.inputs["image_bytes"].CopyFrom(tensor(tensor_type, *TENSORS["strings"]))
        request.output_filter.extend(["embedding", "error"])
        pair.append(request)
    assert_same(*pair)


def test_predict_response():
    pair = []
    for response, tensor_type in (
        (predict_pb2.PredictResponse(), tensor_pb2.TensorProto),
        (tfserving_pb2.PredictResponse(), tfserving_pb2.Tensor),
    ):
        spec(response.model_spec, name="encoder", version=7, signature="serving_default")
        response.outputs["embedding"].CopyFrom(tensor(tensor_type, *TENSORS["floats"]))
        response.outputs["image"].CopyFrom(tensor(tensor_type, *TENSORS["pixels"]))
        pair.append(response)
    assert_same(*pair)


# State, error code and message of every version.
STATUSES = [(10, 0, ""), (20, 0, ""), (30, 0, ""), (40, 0, ""), (50, 5, "x")]


def test_get_model_status():
    pair = [get_model_status_pb2.GetModelStatusRequest(), tfserving_pb2.GetModelStatusRequest()]
    for request in pair:
        spec(request.model_spec, name="encoder", version=7)
    assert_same(*pair)
    pair = []
    for response in (get_model_status_pb2.GetModelStatusResponse(), tfserving_pb2.GetModelStatusResponse()):
        for version, (state, code, text) in enumerate(STATUSES):
            entry = response.model_version_status.add(version=version, state=state)
            entry.status.error_code = code
            entry.status.error_message = text
        pair.append(response)
    assert_same(*pair)


COPIES = [
    (tfserving_pb2.ModelSpec, model_pb2.ModelSpec),
    (tfserving_pb2.TensorShape, tensor_shape_pb2.TensorShapeProto),
    (tfserving_pb2.TensorShape.Dim, tensor_shape_pb2.TensorShapeProto.Dim),
    (tfserving_pb2.Tensor, tensor_pb2.TensorProto),
    (tfserving_pb2.PredictRequest, predict_pb2.PredictRequest),
    (tfserving_pb2.PredictResponse, predict_pb2.PredictResponse),
    (tfserving_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusRequest),
    (tfserving_pb2.GetModelStatusResponse, get_model_status_pb2.GetModelStatusResponse),
    (tfserving_pb2.ModelVersionStatus, get_model_status_pb2.ModelVersionStatus),
    (tfserving_pb2.ModelStatus, status_pb2.StatusProto),
]


@pytest.mark.parametrize(("ours", "theirs"), COPIES, ids=lambda message: message.DESCRIPTOR.name)
def test_every_field_of_ours_is_theirs(ours, theirs):
    for field in ours.DESCRIPTOR.fields:
        original = theirs.DESCRIPTOR.fields_by_number[field.number]
        assert field.name == original.name
        assert field.label == original.label
        # An enum is an int32 on the wire, and ours declares none.
        enum = original.type == original.TYPE_ENUM and field.type == field.TYPE_INT32
        assert field.type == original.type or enum


def assert_same(theirs, ours):
    data = theirs.SerializeToString(deterministic=True)
    assert ours.SerializeToString(deterministic=True) == data
    # And each reads the other's.
    assert type(ours).FromString(data) == ours
    assert type(theirs).FromString(ours.SerializeToString()) == theirs
