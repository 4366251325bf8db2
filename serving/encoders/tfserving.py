"""The encoder behind TF Serving's own wire: exactly the version that a release names answers, or an error does."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf import wrappers_pb2

from lookalike.tfserving.v1 import tfserving_pb2
from serving.encoders import replicas, tensors
from serving.search import errors
from serving.search.encoder import Embeddings, Reconstruction
from serving.security.files import Fresh

AVAILABLE = 30  # tensorflow.serving.ModelVersionStatus.State
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_CLOSE_SECONDS = 60.0
# What TF Serving says where it sheds load, under the code of a server that is away.
_QUEUE_FULL = "batch scheduling queue"
_OPTIONS = (
    # A batch of images goes out; reconstructions come back.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # An encoder that is back must be found again in seconds; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class TfServingEncoder:
    """An encoder behind TF Serving's gRPC port. Belongs to the event loop that it is first used in."""

    def __init__(
        self,
        address: str,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        credentials: Fresh[Any] | None = None,
    ) -> None:
        """address: HOST:PORT; or of several servers, as for `replicas.several`. credentials: None asks in the clear."""
        self._address = address
        self._interceptors = interceptors
        self._credentials = credentials
        self._closing: set[asyncio.Task[None]] = set()
        self._open()

    def _open(self) -> None:
        # No retry policy: the gateway's client may retry, and two layers of it would multiply the load of an encoder in
        # trouble. (What gRPC never sent it sends again by itself.)
        self._channel = self._open_channel(self._address, replicas.channel_options(self._address))
        self._predict = self._channel.unary_unary(
            _PREDICT,
            request_serializer=tfserving_pb2.PredictRequest.SerializeToString,
            response_deserializer=tfserving_pb2.PredictResponse.FromString,
        )

    def _open_channel(self, address: str, more: Sequence[tuple[str, Any]]) -> Any:
        options: dict[str, Any] = {"options": (*_OPTIONS, *more), "interceptors": self._interceptors}
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, **options)
        return grpc.aio.secure_channel(address, self._credentials.get(), **options)

    async def encode(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Embeddings:
        """See Encoder. A batch that is refused is sent again one image at a time: one bad image costs one image."""
        end = asyncio.get_running_loop().time() + timeout
        try:
            return await self._embed(images, model, version, timeout)
        except errors.ImagesRejected as error:
            if len(images) == 1:
                raise
            return await self._encode_each(images, model, version, end, error)

    async def reconstruct(self, images: Sequence[bytes], *, model: str, version: int, timeout: float) -> Reconstruction:
        """Returns what the decoder makes of canonical images. Raises as `encode`."""
        outputs = await self._call("reconstruct", ("image", "error"), images, model, version, timeout)
        pixels, mse = outputs["image"], outputs["error"]
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or mse.dtype != np.float32 or mse.shape != (len(images),):
            raise errors.EncoderFault(f"encoder reconstructed {len(images)} images as {pixels.shape}, {mse.shape}.")
        return Reconstruction(pixels, mse)

    async def available(self, *, model: str, version: int, timeout: float) -> bool:
        """See Encoder; of several servers all that answer must hold it. Takes up new certificates."""
        if self._credentials is not None and self._credentials.changed() is not None:
            # What is under way ends on the old channel.
            closing = asyncio.create_task(self._channel.close(_CLOSE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._open()
        if not replicas.several(self._address):
            return bool(await self._holds(self._channel, model, version, timeout))
        # Requests go to any of them: a version that one lacks would fail on it.
        found = await asyncio.gather(
            *(self._one_holds(address, model, version, timeout) for address in await replicas.each(self._address))
        )
        return any(found) and all(holds is not False for holds in found)

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        await self._channel.close()

    async def _one_holds(self, address: str, model: str, version: int, timeout: float) -> bool | None:
        # Certificates are for the name that the servers share.
        name = ("grpc.ssl_target_name_override", replicas.host_name(self._address))
        channel = self._open_channel(address, () if self._credentials is None else (name,))
        try:
            return await self._holds(channel, model, version, timeout)
        finally:
            await channel.close()

    async def _holds(self, channel: Any, model: str, version: int, timeout: float) -> bool | None:
        """Returns whether a server holds the version; None where it doesn't say."""
        status = channel.unary_unary(
            _STATUS,
            request_serializer=tfserving_pb2.GetModelStatusRequest.SerializeToString,
            response_deserializer=tfserving_pb2.GetModelStatusResponse.FromString,
        )
        spec = tfserving_pb2.ModelSpec(name=model, version=wrappers_pb2.Int64Value(value=version))
        request = tfserving_pb2.GetModelStatusRequest(model_spec=spec)
        try:
            response = await status(request, timeout=timeout, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            # It holds no version at all.
            return False if error.code() == grpc.StatusCode.NOT_FOUND else None
        return any(s.version == version and s.state == AVAILABLE for s in response.model_version_status)

    async def _encode_each(
        self, images: Sequence[bytes], model: str, version: int, end: float, error: errors.ImagesRejected
    ) -> Embeddings:
        rows: dict[int, npt.NDArray[np.float32]] = {}
        reasons: dict[int, str] = {}
        for i, image in enumerate(images):
            left = end - asyncio.get_running_loop().time()
            try:
                rows[i] = (await self._embed([image], model, version, left))[0]
            except errors.ImagesRejected as rejected:
                reasons[i] = rejected.reasons[0]
        if not rows:
            raise errors.ImagesRejected(reasons, np.zeros((len(images), 0), np.float32)) from error
        embeddings = np.zeros((len(images), len(next(iter(rows.values())))), np.float32)
        for i, row in rows.items():
            embeddings[i] = row
        if reasons:
            raise errors.ImagesRejected(reasons, embeddings) from error
        return embeddings

    async def _embed(self, images: Sequence[bytes], model: str, version: int, timeout: float) -> Embeddings:
        outputs = await self._call("serving_default", ("embedding",), images, model, version, timeout)
        embeddings = outputs["embedding"]
        if embeddings.dtype != np.float32 or embeddings.ndim != 2 or len(embeddings) != len(images):
            raise errors.EncoderFault(
                f"encoder must answer float32 [{len(images)}, D], got {embeddings.dtype} {list(embeddings.shape)}."
            )
        if not np.isfinite(embeddings).all():
            raise errors.EncoderFault("encoder answered NaN or infinity.")
        return embeddings

    async def _call(
        self, signature: str, outputs: Sequence[str], images: Sequence[bytes], model: str, version: int, timeout: float
    ) -> dict[str, npt.NDArray[Any]]:
        if timeout <= 0:
            raise errors.DeadlineExceeded("the deadline passed before the encoder was asked.")
        spec = tfserving_pb2.ModelSpec(
            name=model, version=wrappers_pb2.Int64Value(value=version), signature_name=signature
        )
        request = tfserving_pb2.PredictRequest(
            model_spec=spec, inputs={"image_bytes": tensors.from_strings(images)}, output_filter=outputs
        )
        try:
            response = await self._predict(request, timeout=timeout, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, len(images), model, version) from error
        answered = response.model_spec.version.value
        # The one thing that must never pass: embeddings of another encoder look plausible and mean nothing.
        if answered != version:
            raise errors.EncoderFault(f"asked version {version} of encoder {model}, was answered by {answered}.")
        try:
            return {name: tensors.to_array(response.outputs[name]) for name in outputs}
        except tensors.TensorError as error:
            raise errors.EncoderFault(f"encoder {model} answered a tensor that can't be read: {error}") from error


def _translated(error: grpc.aio.AioRpcError, count: int, model: str, version: int) -> errors.RetrievalError:
    code = error.code()
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        # TensorFlow's message may quote the graph: the client learns only that this image didn't pass.
        reasons = dict.fromkeys(range(count), "the encoder can't read it.")
        return errors.ImagesRejected(reasons, np.zeros((count, 0), np.float32))
    if code == grpc.StatusCode.NOT_FOUND:
        return errors.EncoderUnavailable(f"version {version} of encoder {model} is not loaded.")
    if code == grpc.StatusCode.UNAVAILABLE and _QUEUE_FULL in (error.details() or ""):
        return errors.Overloaded("the encoder has more work than it can do in time.")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return errors.EncoderUnavailable("the encoder can't be reached; queries by vector and item id go on.")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.Overloaded("the encoder has more work than it can do in time.")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded("the deadline passed while the encoder was working.")
    # The text may tell of the server's insides; it is in the log as the cause of this error.
    return errors.EncoderFault(f"encoder {model} failed with {code.name}.")
