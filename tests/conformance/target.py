"""The server that the suite looks at, ours or a real tensorflow/serving: a client over TF Serving's own protos."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from grpc_health.v1 import health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.conformance import models
from tests.conformance.process import wait_until

TIMEOUT = 20.0
START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50


class Target:
    """A server. base: the folder of its models as we see it; server_base: as the server does."""

    def __init__(self, address: str, base: pathlib.Path, server_base: str) -> None:
        self.base = base
        self.server_base = server_base
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def predict(
        self,
        model: str,
        signature: str = "",
        inputs: Mapping[str, Any] | None = None,
        *,
        timeout: float = TIMEOUT,
        output_filter: Sequence[str] = (),
        **version: Any,
    ) -> predict_pb2.PredictResponse:
        """Sends a Predict. inputs: TensorProtos, or arrays. version: `version=7` or `version_label="x"`."""
        request = predict_request(model, signature, inputs, output_filter, **version)
        return self.prediction.Predict(request, timeout=timeout)

    def version_of(self, model: str, **version: Any) -> int:
        """Returns which version answers, asking the model itself as well as the response."""
        response = self.predict(model, "arithmetic", {"x": floats(1), "y": floats(2)}, **version)
        (said,) = tf.make_ndarray(response.outputs["version"])
        assert response.model_spec.version.value == said
        return int(said)

    def states(self, model: str) -> dict[int, int]:
        """Returns the state of every version; none for a model that isn't known."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        try:
            answer = self.model.GetModelStatus(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND
            return {}
        return {status.version: status.state for status in answer.model_version_status}

    def wait_for(self, model: str, version: int, state: int) -> None:
        """Waits until a version is in `state`."""
        wait_until(lambda: self.states(model).get(version) == state)

    def metadata(self, model: str, *fields: str) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Sends a GetModelMetadata."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        request.model_spec.name = model
        return self.prediction.GetModelMetadata(request, timeout=TIMEOUT)

    def reload(self, request: model_management_pb2.ReloadConfigRequest) -> model_management_pb2.ReloadConfigResponse:
        """Sends a HandleReloadConfigRequest."""
        return self.model.HandleReloadConfigRequest(request, timeout=TIMEOUT)

    def add_version(self, model: str, version: int, spare: str | None = None) -> None:
        """Lets a version appear in the folder of `model`."""
        source = self.base / models.SPARE / (spare or str(version))
        models.copy_version(source, self.base / model / str(version))


def predict_request(
    model: str,
    signature: str = "",
    inputs: Mapping[str, Any] | None = None,
    output_filter: Sequence[str] = (),
    version: int | None = None,
    version_label: str | None = None,
) -> predict_pb2.PredictRequest:
    """Returns a PredictRequest; without inputs, one picture."""
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if version_label is not None:
        request.model_spec.version_label = version_label
    for alias, value in (pictures() if inputs is None else inputs).items():
        proto = value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
        request.inputs[alias].CopyFrom(proto)
    return request


def pictures(*seeds: int) -> dict[str, np.ndarray]:
    """Returns the inputs of the default signature: a picture for every seed, or one."""
    return {"image_bytes": np.array([models.picture(seed) for seed in seeds or (0,)], object)}


def floats(*values: float) -> np.ndarray:
    """Returns a float32 vector."""
    return np.array(values, np.float32)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, *texts: str) -> Iterator[None]:
    """Expects a call to fail with `code` and all of `texts` in its message; one ending in `$` is the whole of it."""
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        for text in texts:
            if text.endswith("$"):
                assert error.details() == text[:-1]
            else:
                assert text in error.details()
    else:
        raise AssertionError(f"expected {code}")
