"""A TF Serving that holds no TensorFlow: the same wire, embeddings that are a fixed function of the pixels."""

import asyncio
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf import wrappers_pb2
from PIL import Image

from lookalike.tfserving.v1 import tfserving_pb2
from serving.encoders import tensors

MODEL = "encoder"
SIDE = 8


def embed(images: Sequence[bytes], *, seed: int = 0, dimension: int = 16) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, D]` of unit length. seed: of the weights, so that two encoders can differ."""
    weights = np.random.default_rng(seed).standard_normal((SIDE * SIDE, dimension))
    rows = np.stack([_pixels(image) for image in images]) @ weights
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _pixels(image: bytes) -> npt.NDArray[np.float64]:
    with Image.open(io.BytesIO(image)) as opened:
        small = opened.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel() / 255.0 + 0.01


class FakeModelServer:
    """Serves `embed` as versions of a model. What it does wrong on request is set by attributes.

    versions: version -> seed. answers_as: the version it claims to be. as_content: raw bytes or typed fields.
    rejects: canonical images that it refuses, and their whole batch. fails_with: a status for every Predict.
    reconstructs: whether it has that signature. errors: gives that of each image that it reconstructs, after
    reconstruct_delay seconds. host: of the loopback network. options: of its gRPC server.
    gate: what Predict waits for, open at first; belongs to the loop. traceparents: that Predict was called with.
    """

    def __init__(self, *, dimension: int = 16) -> None:
        self.dimension = dimension
        self.versions: dict[int, int] = {1: 0}
        self.answers_as: int | None = None
        self.as_content = False
        self.rejects: set[bytes] = set()
        self.fails_with: grpc.StatusCode | None = None
        self.delay = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reconstructs = True
        self.errors: Iterator[float] = itertools.repeat(0.0)
        self.reconstruct_delay = 0.0
        self.traceparents: list[str] = []
        self.cancelled = 0
        self.host = "127.0.0.1"
        self.port = 0
        self.options: list[tuple[str, int]] = []
        self.credentials: Any = None
        self.asked: list[tuple[int, int]] = []
        self._server: Any = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listens: the first time on a free port, later on the same one."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *self.options])
        methods = {
            "PredictionService": ("Predict", self._predict, tfserving_pb2.PredictRequest),
            "ModelService": ("GetModelStatus", self._model_status, tfserving_pb2.GetModelStatusRequest),
        }
        for service, (name, behavior, request) in methods.items():
            handler = grpc.unary_unary_rpc_method_handler(
                behavior, request_deserializer=request.FromString, response_serializer=lambda m: m.SerializeToString()
            )
            generic = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", {name: handler})
            self._server.add_generic_rpc_handlers((generic,))
        address = self.address
        if self.credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self.credentials)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _predict(self, request: Any, context: Any) -> Any:
        version = request.model_spec.version.value
        images = list(request.inputs["image_bytes"].string_val)
        self.asked.append((version, len(images)))
        self.traceparents += [value for name, value in context.invocation_metadata() if name == "traceparent"]
        reconstructs = request.model_spec.signature_name == "reconstruct"
        try:
            await self.gate.wait()
            await asyncio.sleep(self.delay + (self.reconstruct_delay if reconstructs else 0.0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails_with is not None:
            await context.abort(self.fails_with, "secret insides: /opt/model/graph.pb")
        if request.model_spec.name != MODEL or version not in self.versions:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {version}")
        if reconstructs and not self.reconstructs:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "reconstruct" not found.')
        if self.rejects & set(images):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Unknown image file format.")
        spec = tfserving_pb2.ModelSpec(
            name=MODEL,
            version=wrappers_pb2.Int64Value(value=self.answers_as or version),
            signature_name=request.model_spec.signature_name,
        )
        if reconstructs:
            arrays: dict[str, Any] = {
                "image": np.stack([(_pixels(image) * 255).reshape(SIDE, SIDE, 1).astype(np.uint8) for image in images]),
                "error": np.fromiter(self.errors, np.float32, len(images)),
            }
        else:
            arrays = {"embedding": embed(images, seed=self.versions[version], dimension=self.dimension)}
        outputs = {name: tensors.from_array(array, as_content=self.as_content) for name, array in arrays.items()}
        return tfserving_pb2.PredictResponse(outputs=outputs, model_spec=spec)

    async def _model_status(self, request: Any, context: Any) -> Any:
        if request.model_spec.name != MODEL:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        return tfserving_pb2.GetModelStatusResponse(
            model_version_status=[
                tfserving_pb2.ModelVersionStatus(version=version, state=30) for version in self.versions
            ]
        )
