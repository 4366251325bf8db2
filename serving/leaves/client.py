"""A leaf behind gRPC: a Leaf for the root's core."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from lookalike.leaf.v1 import leaf_pb2
from lookalike.retrieval.v1 import retrieval_pb2
from serving.leaves import messages
from serving.leaves.service import SERVICE
from serving.release.share import Share
from serving.search import errors
from serving.search.changes import Changed, ItemDelete, ItemUpsert
from serving.search.leaf import LeafItem, LeafQuery, LeafResult, LeafStatus
from serving.security.files import Fresh

_CLOSE_SECONDS = 60.0
_OPTIONS = (
    # Collapsing may ask for thousands of items with their embeddings.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A leaf that is back must be found again at once; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A connection that is dead without saying so must not be kept; less often than a leaf forbids.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Whether and whom to ask again is decided by who knows of the replicas.
    ("grpc.enable_retries", 0),
)


class GrpcLeaf:
    """One leaf process. Belongs to the event loop that it is first used in."""

    def __init__(
        self,
        address: str,
        share: Share,
        *,
        credentials: Fresh[Any] | None = None,
        token: Fresh[str] | None = None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        """address: HOST:PORT. credentials: None asks in the clear. token: that says who we are."""
        self._address = address
        self._share = share
        self._credentials = credentials
        self._token = token
        self._interceptors = interceptors
        self._closing: set[asyncio.Task[None]] = set()
        self._open()

    async def search(self, queries: Sequence[LeafQuery], *, release_id: str, timeout: float) -> list[LeafResult]:
        """See Leaf."""
        request = messages.search_request(queries, release_id, self._share)
        response = await self._call(self._search, request, timeout)
        if response.release_id != release_id or len(response.results) != len(queries):
            raise errors.LeafUnavailable(f"leaf {self._share} answered something else than it was asked.")
        return [messages.to_result(result) for result in response.results]

    async def items(
        self, item_ids: Sequence[str], *, release_id: str, thumbnails: bool, embeddings: bool, timeout: float
    ) -> list[LeafItem | None]:
        """See Leaf."""
        request = leaf_pb2.GetItemsRequest(
            release_id=release_id,
            share=messages.from_share(self._share),
            item_ids=item_ids,
            thumbnails=thumbnails,
            embeddings=embeddings,
        )
        response = await self._call(self._get_items, request, timeout)
        if response.release_id != release_id or len(response.results) != len(item_ids):
            raise errors.LeafUnavailable(f"leaf {self._share} answered something else than it was asked.")
        return [messages.to_leaf_item(result) for result in response.results]

    async def upsert(self, items: Sequence[ItemUpsert], *, timeout: float) -> list[Changed | Exception]:
        """See Leaf."""
        batch = retrieval_pb2.BatchUpsertRequest(requests=[messages.from_upsert(item) for item in items])
        request = leaf_pb2.UpsertRequest(share=messages.from_share(self._share), batch=batch)
        return self._changed(await self._call(self._upsert, request, timeout, changes=True), len(items))

    async def delete(self, items: Sequence[ItemDelete], *, timeout: float) -> list[Changed | Exception]:
        """See Leaf."""
        batch = retrieval_pb2.BatchDeleteRequest(requests=[messages.from_delete(item) for item in items])
        request = leaf_pb2.DeleteRequest(share=messages.from_share(self._share), batch=batch)
        return self._changed(await self._call(self._delete, request, timeout, changes=True), len(items))

    async def status(self, *, timeout: float) -> LeafStatus:
        """See Leaf. Takes up new certificates."""
        if self._credentials is not None and self._credentials.changed() is not None:
            # What is under way ends on the old channel.
            closing = asyncio.create_task(self._channel.close(_CLOSE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._open()
        return messages.to_status(await self._call(self._get_status, leaf_pb2.GetStatusRequest(), timeout))

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        await self._channel.close()

    def _open(self) -> None:
        options: dict[str, Any] = {"options": _OPTIONS, "interceptors": self._interceptors}
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._address, **options)
        else:
            self._channel = grpc.aio.secure_channel(self._address, self._credentials.get(), **options)
        self._search = self._method("Search", leaf_pb2.SearchResponse)
        self._get_items = self._method("GetItems", leaf_pb2.GetItemsResponse)
        self._upsert = self._method("Upsert", leaf_pb2.UpsertResponse)
        self._delete = self._method("Delete", leaf_pb2.DeleteResponse)
        self._get_status = self._method("GetStatus", leaf_pb2.GetStatusResponse)

    def _changed(self, response: Any, count: int) -> list[Changed | Exception]:
        if len(response.batch.results) != count:
            raise errors.LeafUnavailable(f"leaf {self._share} answered something else than it was asked.")
        return [messages.to_changed(result) for result in response.batch.results]

    def _method(self, name: str, response: Any) -> Any:
        return self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    async def _call(self, method: Any, request: Any, timeout: float, *, changes: bool = False) -> Any:
        if timeout <= 0:
            raise errors.DeadlineExceeded("the deadline passed before the leaf was asked.", begun=False)
        metadata = () if self._token is None else (("authorization", f"Bearer {self._token.get()}"),)
        try:
            return await method(request, timeout=timeout, metadata=metadata, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            status = _status(error)
            known = messages.to_error(status) if changes and status.details else None
            if isinstance(known, errors.RetrievalError):
                # What a leaf says of a change is for the client.
                raise known from error
            raise _translated(error, status, self._address) from error


def _translated(error: grpc.aio.AioRpcError, status: Any, address: str) -> errors.RetrievalError:
    code, reason = error.code(), _reason(status)
    if reason == "RELEASE_NOT_HELD":
        return errors.ReleaseNotHeld(_resource(status), "another one")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(f"the deadline passed while leaf {address} was working.")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED or (code == grpc.StatusCode.CANCELLED and not reason):
        # Nobody here cancels and still waits: it is all that gRPC says for a server that can't even refuse.
        return errors.Overloaded(f"leaf {address} has more requests than it will take on.")
    said = error.details() or ""
    return errors.LeafUnavailable(f"leaf {address} can't be asked: {code.name}{': ' + said if said else ''}")


def _reason(status: Any) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def _resource(status: Any) -> str:
    failure = error_details_pb2.PreconditionFailure()
    for detail in status.details:
        if detail.Unpack(failure) and failure.violations:
            return str(failure.violations[0].subject)
    return ""


def _status(error: grpc.aio.AioRpcError) -> Any:
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    return status
