"""A small client of the gateway, with plain values in and out."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from serving import attributes

DEFAULT_ADDRESS = "127.0.0.1:50051"
# A thousand neighbours with their attributes are more than gRPC's default of 4 MiB.
_OPTIONS = (("grpc.max_receive_message_length", 64 * 2**20),)


class QueryFailed(Exception):
    """The gateway said no, or could not be reached. `str()` is for people, the rest for programs.

    code: gRPC's, like `INVALID_ARGUMENT`. reason: finer and stable, like `ENCODER_UNAVAILABLE`; empty where the
    gateway didn't answer itself. field: of the request, where it was that. retry_seconds: when asking again may help.
    """

    def __init__(self, code: str, message: str, reason: str, field: str, retry_seconds: float | None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.field = field
        self.retry_seconds = retry_seconds


@dataclasses.dataclass(frozen=True)
class Item:
    """An image of the collection. width, height: pixels. thumbnail: PNG or JPEG, empty unless asked for."""

    item_id: str
    uri: str
    sha256: str
    width: int
    height: int
    attributes: Mapping[str, str | int | float | bool]
    thumbnail: bytes


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """A result. score: cosine, in [-1, 1]."""

    item: Item
    score: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """Neighbours, best first, and who gave them. Seconds are the gateway's, by step."""

    neighbors: tuple[Neighbor, ...]
    release_id: str
    encoder_version: int
    decode_seconds: float
    encode_seconds: float
    search_seconds: float


@dataclasses.dataclass(frozen=True)
class Embedding:
    """An image's embedding, D values."""

    values: tuple[float, ...]
    release_id: str
    encoder_version: int


@dataclasses.dataclass(frozen=True)
class Release:
    """What is served. created: seconds since the epoch. parent: empty for the first."""

    release_id: str
    created: float
    parent: str
    encoder_model: str
    encoder_version: int
    encoder_digest: str
    dimension: int
    index_kind: str
    count: int


class Client:
    """A connection to one gateway; a context manager. Methods raise QueryFailed."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout: float = 30.0) -> None:
        """address: HOST:PORT. timeout: seconds for each call."""
        self._address = address
        self._timeout = timeout
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def search(
        self,
        *,
        image: bytes | None = None,
        vector: Sequence[float] | None = None,
        item_id: str | None = None,
        k: int = 10,
    ) -> Answer:
        """Returns the `k` items most like an image (a file's bytes), a vector, or an item, which is left out itself."""
        given = {"image": image, "vector": vector, "item_id": item_id}
        query: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if len(query) != 1:
            raise TypeError(f"exactly one of image, vector, item_id must be given, got {', '.join(query) or 'none'}.")
        try:
            if vector is not None:
                query["vector"] = retrieval_pb2.Vector(values=vector)
            request = retrieval_pb2.SearchRequest(k=k, **query)
        except ValueError as error:
            # An int that isn't an int32, a string that isn't Unicode: the wire can't even carry it.
            raise QueryFailed("INVALID_ARGUMENT", str(error), "INVALID_QUERY", "", None) from error
        response = self._call(self._stub.Search, request)
        return Answer(
            tuple(Neighbor(_item(n.item), n.score) for n in response.neighbors),
            response.release_id,
            response.encoder_version,
            response.timings.decode_seconds,
            response.timings.encode_seconds,
            response.timings.search_seconds,
        )

    def encode(self, image: bytes) -> Embedding:
        """Returns the embedding of an image file's bytes."""
        response = self._call(self._stub.Encode, retrieval_pb2.EncodeRequest(image=image))
        return Embedding(tuple(response.embedding.values), response.release_id, response.encoder_version)

    def get_item(self, item_id: str, *, thumbnail: bool = False) -> Item:
        """Returns one item of the release."""
        request = retrieval_pb2.GetItemRequest(item_id=item_id, thumbnail=thumbnail)
        return _item(self._call(self._stub.GetItem, request).item)

    def get_release(self) -> Release:
        """Returns what is being served."""
        release = self._call(self._stub.GetRelease, retrieval_pb2.GetReleaseRequest()).release
        return Release(
            release.release_id,
            release.created_seconds,
            release.parent,
            release.encoder_model,
            release.encoder_version,
            release.encoder_digest,
            release.dimension,
            release.index_kind,
            release.count,
        )

    def is_serving(self, service: str = "lookalike.retrieval.v1.RetrievalService") -> bool:
        """Returns whether a service says it is healthy; `lookalike.encoder` is the encoder."""
        try:
            response = self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=self._timeout)
        except grpc.RpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_until_serving(self, timeout: float, *, encoder: bool = True) -> None:
        """Waits for a release and its encoder to be served; raises TimeoutError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not (self.is_serving() and (not encoder or self.is_serving("lookalike.encoder"))):
            if time.monotonic() > end:
                raise TimeoutError(f"the gateway at {self._address} does not serve a release after {timeout:g} s.")
            time.sleep(0.1)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._failed(error) from error

    def _failed(self, error: Any) -> QueryFailed:
        status = status_pb2.Status()
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status.ParseFromString(value)
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        for detail in status.details:
            for message in (info, bad, retry):
                if detail.Is(message.DESCRIPTOR):
                    detail.Unpack(message)
        text = error.details() or error.code().name
        if not status.details:
            text = f"no answer from the gateway at {self._address}: {text}"
        field = bad.field_violations[0].field if bad.field_violations else ""
        wait = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
        return QueryFailed(error.code().name, text, info.reason, field, wait)


def _item(message: Any) -> Item:
    values = {name: attributes.from_message(value) for name, value in message.attributes.items()}
    return Item(message.item_id, message.uri, message.sha256, message.width, message.height, values, message.thumbnail)
