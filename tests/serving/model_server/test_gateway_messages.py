"""The gateway's few messages, byte for byte those of TF Serving."""

import pytest
from google.protobuf import descriptor_pb2, text_format
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2

from lookalike.tfserving.v1 import tfserving_pb2

PREDICT = """
model_spec { name: "encoder" version { value: 7 } signature_name: "serving_default" }
inputs { key: "image_bytes" value {
  dtype: %s tensor_shape { dim { size: 2 } } string_val: "\\x89PNG" string_val: "" } }
output_filter: "embedding"
"""
ANSWER = """
model_spec { name: "encoder" version { value: 1795501803 } signature_name: "reconstruct" }
outputs { key: "embedding" value {
  dtype: %s tensor_shape { dim { size: 1 } dim { size: 3 } } float_val: [0.5, -2, 1e-30] } }
outputs { key: "error" value { dtype: %s tensor_shape { dim { size: 1 } } tensor_content: "\\x00\\x01\\x80\\x3f" } }
outputs { key: "image" value { dtype: %s tensor_shape { dim { size: 3 } } int_val: [0, 127, 255] } }
"""
STATUS = """
model_version_status { version: 7 state: %s status { error_code: %s } }
model_version_status { version: 8 state: %s status { error_code: %s error_message: "no such file" } }
"""
CASES = {
    "predict request": (
        predict_pb2.PredictRequest,
        PREDICT % "DT_STRING",
        tfserving_pb2.PredictRequest,
        PREDICT % 7,
    ),
    "predict response": (
        predict_pb2.PredictResponse,
        ANSWER % ("DT_FLOAT", "DT_FLOAT", "DT_UINT8"),
        tfserving_pb2.PredictResponse,
        ANSWER % (1, 1, 4),
    ),
    "status request": (
        get_model_status_pb2.GetModelStatusRequest,
        'model_spec { name: "encoder" version_label: "stable" }',
        tfserving_pb2.GetModelStatusRequest,
        'model_spec { name: "encoder" version_label: "stable" }',
    ),
    "status response": (
        get_model_status_pb2.GetModelStatusResponse,
        STATUS % ("AVAILABLE", "OK", "LOADING", "NOT_FOUND"),
        tfserving_pb2.GetModelStatusResponse,
        STATUS % (30, 0, 20, 5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes(name: str) -> None:
    theirs, their_text, ours, our_text = CASES[name]
    expected = text_format.Parse(their_text, theirs()).SerializeToString(deterministic=True)
    assert text_format.Parse(our_text, ours()).SerializeToString(deterministic=True) == expected
    assert ours.FromString(expected).SerializeToString(deterministic=True) == expected


ENUMS = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM
INT32 = descriptor_pb2.FieldDescriptorProto.TYPE_INT32


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tfserving_pb2.ModelSpec, model_pb2.ModelSpec),
        (tfserving_pb2.Tensor, tensor_pb2.TensorProto),
        (tfserving_pb2.TensorShape, tensor_shape_pb2.TensorShapeProto),
        (tfserving_pb2.TensorShape.Dim, tensor_shape_pb2.TensorShapeProto.Dim),
        (tfserving_pb2.PredictRequest, predict_pb2.PredictRequest),
        (tfserving_pb2.PredictResponse, predict_pb2.PredictResponse),
        (tfserving_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusRequest),
        (tfserving_pb2.GetModelStatusResponse, get_model_status_pb2.GetModelStatusResponse),
        (tfserving_pb2.ModelVersionStatus, get_model_status_pb2.ModelVersionStatus),
    ],
)
def test_every_field_has_their_number_name_and_kind(ours: type, theirs: type) -> None:
    for field in ours.DESCRIPTOR.fields:
        twin = theirs.DESCRIPTOR.fields_by_number[field.number]
        # An enum is declared as the int32 that it is on the wire.
        kind = INT32 if twin.type == ENUMS else twin.type
        assert (field.name, field.type, field.label) == (twin.name, kind, twin.label)
