"""A small client of the gateway, with plain values in and out."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from serving import attributes, filter_messages
from serving.client import failures
from serving.client.answers import (
    Answer,
    Deleted,
    Embedding,
    Item,
    Release,
    Upserted,
    to_answer,
    to_deleted,
    to_item,
    to_release,
    to_upserted,
)
from serving.client.channel import Credentials, open_channel
from serving.client.failures import QueryFailed
from serving.search import filter_language
from serving.search.filters import Filter

Value = str | int | float | bool
DEFAULT_ADDRESS = "127.0.0.1:50051"


@dataclasses.dataclass(frozen=True)
class Query:
    """A query of a batch: as the arguments of `Client.search`."""

    image: bytes | None = None
    vector: Sequence[float] | None = None
    item_id: str | None = None
    k: int = 10
    min_score: float | None = None
    filter: Filter | str | None = None
    collapse: float | None = None
    release_id: str = ""
    collapse_groups: bool = False


@dataclasses.dataclass(frozen=True)
class NewItem:
    """An item to upsert: as the arguments of `Client.upsert`."""

    item_id: str
    image: bytes = dataclasses.field(repr=False)
    attributes: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    uri: str = ""


class Client:
    """A connection to one gateway; a context manager. Methods raise QueryFailed."""

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout: float = 30.0, credentials: Credentials | None = None
    ) -> None:
        """address: HOST:PORT, or as for `open_channel`. timeout: seconds for each call. credentials: see there.

        Raises OSError and ValueError for files of `credentials` that can't be used.
        """
        self._address = address
        self._timeout = timeout
        self._credentials = credentials or Credentials()
        self._channel = open_channel(address, self._credentials)
        self._stub = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def search(
        self,
        *,
        image: bytes | None = None,
        vector: Sequence[float] | None = None,
        item_id: str | None = None,
        k: int = 10,
        min_score: float | None = None,
        filter: Filter | str | None = None,
        collapse: float | None = None,
        release_id: str = "",
        collapse_groups: bool = False,
    ) -> Answer:
        """Returns the `k` items most like an image (a file's bytes), a vector, or an item, which is left out itself.

        min_score: leaves out what scores lower. filter: which items may be in the answer, also as text such as
        `label = "9" and width >= 20` (FilterSyntaxError where it is none). collapse: the cosine from which results
        count as near-duplicates, of which only the best is returned. release_id: the release that must answer.
        collapse_groups: whether to return only the best of each group of near-duplicates that the release's build has
        found.
        """
        query = Query(image, vector, item_id, k, min_score, filter, collapse, release_id, collapse_groups)
        return self._search(query)

    def batch_search(self, queries: Sequence[Query], *, release_id: str = "") -> list[Answer | QueryFailed]:
        """Returns for each query its answer, or why there is none; all are answered from one release."""
        requests = [to_request(query) for query in queries]
        request = retrieval_pb2.BatchSearchRequest(requests=requests, release_id=release_id)
        return [
            failures.from_status(result.error) if result.HasField("error") else to_answer(result.response)
            for result in self._call(self._stub.BatchSearch, request).results
        ]

    def encode(self, image: bytes, *, release_id: str = "") -> Embedding:
        """Returns the embedding of an image file's bytes."""
        request = retrieval_pb2.EncodeRequest(image=image, release_id=release_id)
        response = self._call(self._stub.Encode, request)
        return Embedding(tuple(response.embedding.values), response.release_id, response.encoder_version)

    def get_item(self, item_id: str, *, thumbnail: bool = False, release_id: str = "") -> Item:
        """Returns one item of the release."""
        request = retrieval_pb2.GetItemRequest(item_id=item_id, thumbnail=thumbnail, release_id=release_id)
        return to_item(self._call(self._stub.GetItem, request).item)

    def batch_get_items(
        self, item_ids: Sequence[str], *, thumbnails: bool = False, release_id: str = ""
    ) -> list[Item | None]:
        """Returns items of the release in the order of `item_ids`, None for those that it doesn't have."""
        request = retrieval_pb2.BatchGetItemsRequest(item_ids=item_ids, thumbnails=thumbnails, release_id=release_id)
        response = self._call(self._stub.BatchGetItems, request)
        return [to_item(result.item) if result.HasField("item") else None for result in response.results]

    def get_release(self, release_id: str = "") -> Release:
        """Returns what is being served, or one release."""
        request = retrieval_pb2.GetReleaseRequest(release_id=release_id)
        return to_release(self._call(self._stub.GetRelease, request).release)

    def list_releases(self, *, page_size: int = 0) -> Iterator[Release]:
        """Yields the releases of the serving root and of this gateway, newest first, a page at a time."""
        request = retrieval_pb2.ListReleasesRequest(page_size=page_size)
        while True:
            response = self._call(self._stub.ListReleases, request)
            yield from map(to_release, response.releases)
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    def upsert(
        self,
        item_id: str,
        image: bytes,
        attributes: Mapping[str, Value] | None = None,
        *,
        uri: str = "",
    ) -> Upserted:
        """Adds an item to the collection, or replaces the one with its id; returns when it is kept.

        image: a file's bytes. uri: where the original lies, for people. May be repeated.
        """
        request = _upsert(NewItem(item_id, image, attributes or {}, uri))
        return to_upserted(item_id, self._call(self._stub.Upsert, request))

    def batch_upsert(self, items: Sequence[NewItem]) -> list[Upserted | QueryFailed]:
        """Returns for each item what became of it: those that succeed are kept, whatever becomes of the others."""
        request = retrieval_pb2.BatchUpsertRequest(requests=[_upsert(item) for item in items])
        results = self._call(self._stub.BatchUpsert, request).results
        return [
            failures.from_status(result.error)
            if result.HasField("error")
            else to_upserted(item.item_id, result.response)
            for item, result in zip(items, results, strict=True)
        ]

    def delete(self, item_id: str, *, purge: bool = False) -> Deleted:
        """Takes an item out of the collection, for good; returns when that is kept. No matter whether there is one.

        purge: its bytes are to be erased from everything that is kept, too.
        """
        request = _delete(item_id, purge)
        return to_deleted(item_id, self._call(self._stub.Delete, request))

    def batch_delete(self, item_ids: Sequence[str], *, purge: bool = False) -> list[Deleted | QueryFailed]:
        """Returns for each id what became of it."""
        request = retrieval_pb2.BatchDeleteRequest(requests=[_delete(item_id, purge) for item_id in item_ids])
        results = self._call(self._stub.BatchDelete, request).results
        return [
            failures.from_status(result.error) if result.HasField("error") else to_deleted(item_id, result.response)
            for item_id, result in zip(item_ids, results, strict=True)
        ]

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

    def _search(self, query: Query) -> Answer:
        return to_answer(self._call(self._stub.Search, to_request(query)))

    def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        seconds = self._timeout if timeout is None else timeout
        try:
            return method(request, timeout=seconds, metadata=self._credentials.metadata())
        except grpc.RpcError as error:
            raise failures.from_error(error, self._address) from error


def _upsert(item: NewItem) -> Any:
    try:
        values = {name: attributes.to_message(value) for name, value in item.attributes.items()}
        return retrieval_pb2.UpsertRequest(item_id=item.item_id, image=item.image, attributes=values, uri=item.uri)
    except ValueError as error:
        # An int that isn't an int64, a string that isn't Unicode: the wire can't even carry it.
        raise QueryFailed("INVALID_ARGUMENT", str(error), "INVALID_QUERY", "", None) from error


def _delete(item_id: str, purge: bool) -> Any:
    try:
        return retrieval_pb2.DeleteRequest(item_id=item_id, purge=purge)
    except ValueError as error:
        raise QueryFailed("INVALID_ARGUMENT", str(error), "INVALID_QUERY", "", None) from error


def to_request(query: Query) -> Any:
    """Returns a SearchRequest. Raises TypeError, FilterSyntaxError, and QueryFailed for what the wire can't carry."""
    given = {"image": query.image, "vector": query.vector, "item_id": query.item_id}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if len(fields) != 1:
        raise TypeError(f"exactly one of image, vector, item_id must be given, got {', '.join(fields) or 'none'}.")
    if query.filter is not None:
        parsed = filter_language.parse(query.filter) if isinstance(query.filter, str) else query.filter
        fields["filter"] = filter_messages.to_message(parsed)
    try:
        if query.vector is not None:
            fields["vector"] = retrieval_pb2.Vector(values=query.vector)
        return retrieval_pb2.SearchRequest(
            k=query.k,
            min_score=query.min_score,
            collapse_score=query.collapse,
            collapse_groups=query.collapse_groups,
            release_id=query.release_id,
            **fields,
        )
    except ValueError as error:
        # An int that isn't an int32, a string that isn't Unicode: the wire can't even carry it.
        raise QueryFailed("INVALID_ARGUMENT", str(error), "INVALID_QUERY", "", None) from error
