"""tensorflow.serving.PredictionService: Predict and GetModelMetadata."""

import asyncio
import concurrent.futures
import time
from collections.abc import Mapping, Sequence

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.model_server import tensors
from serving.model_server.batching import BatchScheduler
from serving.model_server.errors import ServingError, invalid_argument
from serving.model_server.model_store import ModelStore
from serving.model_server.servable import Handle
from serving.model_server.signature import Signature
from serving.model_server.tensors import Array

_SIGNATURE_DEF = "signature_def"


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Runs models. batches: None to run each request by itself, in `executor`.

    tensor_content: answer with `tensor_content` rather than typed fields (clients must read both).
    """

    def __init__(
        self,
        store: ModelStore,
        batches: BatchScheduler | None,
        executor: concurrent.futures.Executor,
        *,
        tensor_content: bool = False,
    ) -> None:
        self._store = store
        self._batches = batches
        self._executor = executor
        self._tensor_content = tensor_content

    async def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        with lookup(self._store, request) as handle:
            signature = handle.servable.signature(request.model_spec.signature_name)
            inputs = signature.decode(request.inputs)
            outputs = signature.select(request.output_filter)
            arrays = await self._run(handle, signature, inputs, outputs, context.time_remaining())
            response = predict_pb2.PredictResponse()
            response.model_spec.name = request.model_spec.name
            response.model_spec.signature_name = signature.name
            response.model_spec.version.value = handle.version
            for alias in outputs:
                dtype = signature.outputs[alias].dtype
                proto = tensors.encode(arrays[alias], dtype, as_content=self._tensor_content)
                response.outputs[alias].CopyFrom(proto)
            return response

    async def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field} is not supported")
        with lookup(self._store, request) as handle:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, definition in handle.servable.signature_defs.items():
                signatures.signature_def[name].CopyFrom(definition)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = handle.name
            response.model_spec.version.value = handle.version
            response.metadata[_SIGNATURE_DEF].Pack(signatures)
            return response

    async def Classify(
        self, request: classification_pb2.ClassificationRequest, context: grpc.aio.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        raise _unimplemented("Classify")

    async def Regress(
        self, request: regression_pb2.RegressionRequest, context: grpc.aio.ServicerContext
    ) -> regression_pb2.RegressionResponse:
        raise _unimplemented("Regress")

    async def MultiInference(
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.aio.ServicerContext
    ) -> inference_pb2.MultiInferenceResponse:
        raise _unimplemented("MultiInference")

    async def _run(
        self,
        handle: Handle,
        signature: Signature,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        timeout: float | None,
    ) -> Mapping[str, Array]:
        def run(values: Mapping[str, Array], seconds: float | None) -> Mapping[str, Array]:
            # The client may be gone, and with it the use that its request has counted.
            with handle.acquire():
                return handle.servable.run(signature, values, outputs, seconds)

        if self._batches is not None and signature.batchable and _rows(inputs):
            deadline = None if timeout is None else time.monotonic() + timeout
            # The key holds the version itself: a version's requests never meet another's.
            key = (handle, signature.name, outputs)
            return await asyncio.wrap_future(self._batches.submit(key, run, inputs, deadline))
        return await asyncio.get_running_loop().run_in_executor(self._executor, run, inputs, timeout)


def lookup(
    store: ModelStore, request: predict_pb2.PredictRequest | get_model_metadata_pb2.GetModelMetadataRequest
) -> Handle:
    """Returns the version that a request asks for; raises INVALID_ARGUMENT or NOT_FOUND."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return store.get(request.model_spec.name, *version_choice(request.model_spec))


def version_choice(spec: model_pb2.ModelSpec) -> tuple[int | None, str | None]:
    """Returns the version number or the label that `spec` names; neither means the largest available."""
    match spec.WhichOneof("version_choice"):
        case "version":
            return spec.version.value, None
        case "version_label":
            return None, spec.version_label
        case _:
            return None, None


def _rows(inputs: Mapping[str, Array]) -> int:
    """Returns the first dimension that all inputs share; 0 where they don't, or hold nothing."""
    sizes = {len(array) for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _unimplemented(method: str) -> ServingError:
    return ServingError(
        grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here: models without tf.Examples need only Predict."
    )
