"""Predict and GetModelMetadata, as TF Serving answers: SavedModels, encodings, statuses and their words.

Against a real server (the first line once, anywhere with TensorFlow):

    python -m tests.conformance.models /tmp/models --server-path /models
    docker run -p 8500:8500 -v /tmp/models:/models tensorflow/serving:2.16.1 \\
        --model_config_file=/models/models.config \\
        --allow_version_labels_for_unavailable_models --enable_grpc_healthcheck_service --max_num_load_retries=0 \\
        --num_load_threads=1 --num_unload_threads=1
    pytest tests/conformance --target localhost:8500 --model-base-path /tmp/models --server-base-path /models

Without --model-base-path the tests that add and remove versions are skipped; without --target our own server runs.
"""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.conformance import models
from tests.conformance.target import TIMEOUT, floats, pictures, predict_request, refused

pytestmark = pytest.mark.slow

WAYS = ["batching", "plain"]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
XY = {"x": floats(1, 2), "y": floats(3, 4)}


def test_embeds_every_image_of_a_request(target):
    response = target.predict("encoder", inputs=pictures(1, 2, 3))
    assert list(response.outputs) == ["embedding"]
    embeddings = tf.make_ndarray(response.outputs["embedding"])
    assert embeddings.shape == (3, models.DIMENSION)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    alone = tf.make_ndarray(target.predict("encoder", inputs=pictures(2)).outputs["embedding"])
    np.testing.assert_allclose(embeddings[1:2], alone, atol=1e-6)


def test_names_what_ran(target):
    spec = target.predict("encoder", version=1).model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("encoder", "serving_default", 1)


def test_answers_with_typed_fields(target):
    proto = target.predict("encoder").outputs["embedding"]
    assert proto.dtype == tf.float32.as_datatype_enum
    assert len(proto.float_val) == models.DIMENSION
    assert not proto.tensor_content


def test_no_images_are_no_embeddings(target):
    empty = {"image_bytes": tf.make_tensor_proto(np.empty((0,), object), tf.string, (0,))}
    assert tf.make_ndarray(target.predict("encoder", inputs=empty).outputs["embedding"]).shape == (0, models.DIMENSION)


def as_fields(dtype, values):
    field = {
        tf.float32: "float_val",
        tf.float64: "double_val",
        tf.int32: "int_val",
        tf.int64: "int64_val",
        tf.uint8: "int_val",
        tf.bool: "bool_val",
        tf.string: "string_val",
    }[dtype]
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    proto.tensor_shape.dim.add(size=len(values))
    getattr(proto, field).extend(values)
    return proto


def as_content(dtype, values):
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    proto.tensor_shape.dim.add(size=len(values))
    if dtype == tf.string:
        # All lengths (varints), then all bytes.
        proto.tensor_content = bytes(map(len, values)) + b"".join(values)
    else:
        proto.tensor_content = np.array(values, dtype.as_numpy_dtype).tobytes()
    return proto


VALUES = {
    tf.float32: [1.5, -2.25],
    tf.float64: [1e300, -1.0],
    tf.int32: [-(2**31), 7],
    tf.int64: [-(2**63), 2**63 - 1],
    tf.uint8: [0, 255],
    tf.bool: [True, False],
    tf.string: [b"", b"\x00\xff"],
}


@pytest.mark.parametrize("encode", [as_fields, as_content])
def test_takes_both_encodings_of_every_type(target, encode):
    inputs = {f"in_{dtype.name}": encode(dtype, values) for dtype, values in VALUES.items()}
    response = target.predict("encoder", "types", inputs)
    for dtype, values in VALUES.items():
        proto = response.outputs[f"out_{dtype.name}"]
        assert proto.dtype == dtype.as_datatype_enum
        assert tf.make_ndarray(proto).tolist() == values


def test_fills_up_with_the_last_value(target):
    x = as_fields(tf.float32, [2.0])
    x.tensor_shape.dim[0].size = 3
    response = target.predict("encoder", "arithmetic", {"x": x, "y": floats(1, 2, 3)})
    assert tf.make_ndarray(response.outputs["product"]).tolist() == [2, 4, 6]


def test_large_messages_pass_both_ways(target):
    inputs = {f"in_{dtype.name}": as_fields(dtype, values[:1]) for dtype, values in VALUES.items()}
    inputs["in_string"] = as_fields(tf.string, [b"x" * (6 * 2**20)])
    response = target.predict("encoder", "types", inputs)
    assert len(response.outputs["out_string"].string_val[0]) == 6 * 2**20


def test_output_filter_selects(target):
    response = target.predict("encoder", "arithmetic", XY, output_filter=["sum"])
    assert list(response.outputs) == ["sum"]
    assert tf.make_ndarray(response.outputs["sum"]).tolist() == [4, 6]


def test_signature_without_a_batch_dimension(target):
    response = target.predict("encoder", "total", {"pairs": np.ones((3, 2), np.float32)})
    assert tf.make_ndarray(response.outputs["total"]).tolist() == 6


def test_many_at_once_get_their_own_answers(target):
    requests = [predict_request("encoder", inputs=pictures(seed)) for seed in range(40)]
    calls = [target.prediction.Predict.future(request, timeout=TIMEOUT) for request in requests]
    together = np.concatenate([tf.make_ndarray(call.result().outputs["embedding"]) for call in calls])
    expected = tf.make_ndarray(target.predict("encoder", inputs=pictures(*range(40))).outputs["embedding"])
    np.testing.assert_allclose(together, expected, atol=1e-6)


def test_a_bad_image_fails_its_own_request_only(ours):
    good, bad = predict_request("encoder"), predict_request("encoder", inputs={"image_bytes": np.array([b"x"], object)})
    calls = [ours.prediction.Predict.future(bad if n % 5 == 0 else good, timeout=TIMEOUT) for n in range(40)]
    for number, call in enumerate(calls):
        code = call.code()
        assert code == (INVALID if number % 5 == 0 else grpc.StatusCode.OK)


# The status table.


def test_unknown_model(target):
    with refused(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nobody)$"):
        target.predict("nobody")


def test_unknown_version(target):
    with refused(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(encoder, 7)$"):
        target.predict("encoder", version=7)


def test_unknown_label(target):
    with refused(INVALID, "Unrecognized servable version label: x$"):
        target.predict("encoder", version_label="x")


def test_unknown_signature(target):
    with refused(grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "x" not found.$'):
        target.predict("encoder", "x")


def test_missing_model_spec(target):
    with refused(INVALID, "Missing ModelSpec$"):
        target.prediction.Predict(predict_pb2.PredictRequest(), timeout=TIMEOUT)


def test_model_spec_without_a_name(target):
    with refused(INVALID, "ModelSpec has no name specified.$"):
        target.predict("")


def test_missing_input(target):
    with refused(
        INVALID,
        "input size does not match signature: 1!=2 len({x}) != len({x,y}). Sent extra: {}. Missing but required: {y}.$",
    ):
        target.predict("encoder", "arithmetic", {"x": floats(1)})


def test_extra_input(target):
    with refused(INVALID, "input size does not match signature: 3!=2", "Sent extra: {z}. Missing but required: {}."):
        target.predict("encoder", "arithmetic", {**XY, "z": floats(1)})


def test_input_of_another_name(target):
    with refused(INVALID, "Signature input alias: y(feed name: ", "not found in request"):
        target.predict("encoder", "arithmetic", {"x": floats(1), "z": floats(1)})


def test_unknown_output(target):
    with refused(
        INVALID,
        "output tensor alias not found in signature: x Outputs expected to be in the set {product,sum,version}.$",
    ):
        target.predict("encoder", "arithmetic", XY, output_filter=["x"])


def test_duplicate_output(target):
    with refused(INVALID, "duplicate output tensor alias: sum$"):
        target.predict("encoder", "arithmetic", XY, output_filter=["sum", "sum"])


def test_wrong_type(target):
    with refused(INVALID):
        target.predict("encoder", inputs={"image_bytes": floats(1)})


def test_wrong_rank(ours):
    # (A real server finds this only where an operation does.)
    with refused(INVALID, "image_bytes", "[1, 1]"):
        ours.predict("encoder", inputs={"image_bytes": np.array([[models.picture()]], object)})


def test_shapes_that_do_not_go_together(target):
    with refused(INVALID):
        target.predict("encoder", "arithmetic", {"x": floats(1, 2, 3), "y": floats(1, 2)})


def test_what_is_no_tensor(target):
    broken = as_content(tf.float32, [1.0])
    broken.tensor_shape.dim[0].size = 5
    with refused(INVALID, "tensor parsing error: x"):
        target.predict("encoder", "arithmetic", {"x": broken, "y": floats(1)})


def test_what_is_no_image(target):
    with refused(INVALID):
        target.predict("encoder", inputs={"image_bytes": np.array([b"not an image"], object)})


def test_deadline_while_running(target):
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        target.predict("encoder", "slow", {"seconds": floats(30)}, timeout=0.3)
    # The run was stopped: the server has its threads again.
    assert target.predict("encoder", timeout=5).outputs


def test_long_messages_are_cut(target):
    with refused(grpc.StatusCode.FAILED_PRECONDITION, ('Serving signature key "' + "x" * 1001 + "...TRUNCATED$")):
        target.predict("encoder", "x" * 3000)


def test_metadata_is_the_signatures(target):
    response = target.metadata("encoder", "signature_def")
    assert (response.model_spec.name, response.model_spec.version.value) == ("encoder", 2)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    assert default.inputs["image_bytes"].dtype == tf.string.as_datatype_enum
    assert [dim.size for dim in default.outputs["embedding"].tensor_shape.dim] == [-1, models.DIMENSION]


def test_metadata_without_a_field(target):
    with refused(INVALID, "GetModelMetadataRequest must specify at least one metadata_field$"):
        target.metadata("encoder")


def test_metadata_of_another_field(target):
    with refused(INVALID):
        target.metadata("encoder", "signature_def", "weights")


def test_metadata_without_a_model(target):
    with refused(INVALID, "Missing ModelSpec$"):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        target.prediction.GetModelMetadata(request, timeout=TIMEOUT)
    with refused(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nobody)$"):
        target.metadata("nobody", "signature_def")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Classify", classification_pb2.ClassificationRequest()),
        ("Regress", regression_pb2.RegressionRequest()),
        ("MultiInference", inference_pb2.MultiInferenceRequest()),
    ],
)
def test_only_predict_is_implemented(ours, method, message):
    with refused(grpc.StatusCode.UNIMPLEMENTED, method):
        getattr(ours.prediction, method)(message, timeout=TIMEOUT)
