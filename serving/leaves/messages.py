"""Messages of `lookalike.leaf.v1` to the core's values, and back. Items go as they were serialized once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.rpc import error_details_pb2

from lookalike.leaf.v1 import leaf_pb2
from lookalike.retrieval.v1 import retrieval_pb2
from serving import attributes, filter_messages
from serving.gateway import conversion
from serving.gateway.status import STATUSES
from serving.journal.clock import Stamp
from serving.release.items import Item
from serving.release.share import Share
from serving.search import errors
from serving.search.changes import Changed, ItemDelete, ItemUpsert
from serving.search.collapse import Content
from serving.search.filters import FilterError
from serving.search.leaf import LeafItem, LeafQuery, LeafResult, LeafStatus
from serving.search.view import Method

_FLOATS = np.dtype("<f4")
_KINDS: dict[str, Any] = {reason: kind for kind, (_, reason, _) in STATUSES.items()}
# What is made of its message alone.
_BY_MESSAGE = (
    errors.NoRelease,
    errors.StoreUnavailable,
    errors.LeafUnavailable,
    errors.EncoderUnavailable,
    errors.EncoderFault,
    errors.Overloaded,
    errors.DeadlineExceeded,
    errors.UpdatesNotAllowed,
    errors.UpdatesFull,
    errors.ClockAhead,
)


def render(item: Item) -> bytes:
    """Returns an item as leaves send it: an Item message, serialized."""
    data: bytes = conversion.to_item(item).SerializeToString()
    return data


def content_of(data: bytes) -> tuple[str, Content]:
    """Returns the id and the content of an item that `render` made."""
    message = retrieval_pb2.Item.FromString(data)
    return message.item_id, Content(message.duplicate_group, message.sha256)


def to_share(message: Any) -> Share:
    """Returns the share in a Share message; raises WrongShare where it is none."""
    try:
        return Share(message.number, message.of)
    except ValueError as error:
        raise errors.WrongShare(str(error)) from error


def from_share(share: Share) -> Any:
    """Returns a Share message."""
    return leaf_pb2.Share(number=share.number, of=share.of)


def to_query(message: Any) -> LeafQuery:
    """Returns the query in a Query message; raises InvalidQuery."""
    try:
        filter_ = filter_messages.from_message(message.filter) if message.HasField("filter") else None
    except FilterError as error:
        raise errors.InvalidQuery(error.part, str(error)) from error
    return LeafQuery(
        _floats(message.vector, 1)[0],
        message.k,
        message.min_score if message.HasField("min_score") else None,
        filter_,
        message.exclude_item_id,
        message.embeddings,
    )


def from_query(query: LeafQuery) -> Any:
    """Returns a Query message."""
    return leaf_pb2.Query(
        vector=query.vector.astype(_FLOATS).tobytes(),
        k=query.k,
        min_score=query.min_score,
        filter=None if query.filter is None else filter_messages.to_message(query.filter),
        exclude_item_id=query.exclude,
        embeddings=query.embeddings,
    )


def to_result(message: Any) -> LeafResult:
    """Returns the result in a SearchResult message; raises LeafUnavailable where it can't be one."""
    items = list(message.items)
    try:
        scores = _floats(message.scores, 1)[0]
        embeddings = _floats(message.embeddings, len(items)) if message.embeddings else None
        method = Method[retrieval_pb2.SearchMethod.Name(message.method).removeprefix("SEARCH_METHOD_")]
    except (ValueError, KeyError, errors.InvalidQuery) as error:
        raise errors.LeafUnavailable(f"a leaf answered what can't be read: {error}") from error
    if len(scores) != len(items):
        raise errors.LeafUnavailable(f"a leaf answered {len(items)} items and {len(scores)} scores.")
    matching = message.matching_count if message.HasField("matching_count") else None
    return LeafResult(items, scores, method, matching, embeddings)


def from_result(result: LeafResult) -> Any:
    """Returns a SearchResult message."""
    return leaf_pb2.SearchResult(
        items=result.items,
        scores=result.scores.astype(_FLOATS).tobytes(),
        method=conversion.METHODS[result.method.name],
        matching_count=result.matching,
        embeddings=b"" if result.embeddings is None else result.embeddings.astype(_FLOATS).tobytes(),
    )


def to_leaf_item(message: Any) -> LeafItem | None:
    """Returns the item in a GetItemsResult, None where there is none."""
    if not message.HasField("item"):
        return None
    return LeafItem(_item(message.item), _floats(message.embedding, 1)[0] if message.embedding else None)


def from_leaf_item(found: LeafItem | None) -> Any:
    """Returns a GetItemsResult."""
    if found is None:
        return leaf_pb2.GetItemsResult()
    embedding = b"" if found.embedding is None else found.embedding.astype(_FLOATS).tobytes()
    return leaf_pb2.GetItemsResult(item=conversion.to_item(found.item), embedding=embedding)


def to_status(message: Any) -> LeafStatus:
    """Returns what a GetStatusResponse says; raises WrongShare."""
    return LeafStatus(to_share(message.share), frozenset(message.release_ids), message.brief)


def from_status(status: LeafStatus) -> Any:
    """Returns a GetStatusResponse."""
    return leaf_pb2.GetStatusResponse(
        share=from_share(status.share), release_ids=sorted(status.releases), brief=status.brief
    )


def from_upsert(item: ItemUpsert) -> Any:
    """Returns an UpsertRequest of lookalike.retrieval.v1."""
    values = {name: attributes.to_message(value) for name, value in item.attributes.items()}
    return retrieval_pb2.UpsertRequest(item_id=item.item_id, image=item.image, attributes=values, uri=item.uri)


def from_delete(item: ItemDelete) -> Any:
    """Returns a DeleteRequest of lookalike.retrieval.v1."""
    return retrieval_pb2.DeleteRequest(item_id=item.item_id, purge=item.purge)


def to_changed(result: Any) -> Changed | Exception:
    """Returns the outcome in a BatchUpsertResult or a BatchDeleteResult."""
    if result.HasField("error"):
        return to_error(result.error)
    response = result.response
    upserted = isinstance(response, retrieval_pb2.UpsertResponse)
    return Changed(
        Stamp(response.stamp.milliseconds, response.stamp.count, response.stamp.writer),
        response.replaced if upserted else response.found,
        response.release_id,
        response.reindex_advised,
        response.sha256 if upserted else "",
    )


def to_error(status: Any) -> Exception:
    """Returns what a leaf's Status says, as it was raised there."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        for message in (info, bad):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    kind = _KINDS.get(info.reason)
    if kind is errors.InvalidQuery:
        return errors.InvalidQuery(bad.field_violations[0].field if bad.field_violations else "", status.message)
    if kind is errors.ImagesRejected:
        reason = status.message.removeprefix("image 0: ")
        return errors.ImagesRejected({0: reason}, np.zeros((1, 0), np.float32))
    if kind in _BY_MESSAGE:
        return kind(status.message)
    return RuntimeError(f"a leaf failed: {status.message}")


def search_request(queries: Sequence[LeafQuery], release_id: str, share: Share) -> Any:
    """Returns a SearchRequest."""
    return leaf_pb2.SearchRequest(
        release_id=release_id, share=from_share(share), queries=[from_query(query) for query in queries]
    )


def _item(message: Any) -> Item:
    return Item(
        message.item_id,
        message.uri,
        message.sha256,
        message.width,
        message.height,
        {name: attributes.from_message(value) for name, value in message.attributes.items()},
        message.thumbnail,
        duplicate_group=message.duplicate_group,
    )


def _floats(data: bytes, rows: int) -> npt.NDArray[np.float32]:
    """Returns float32 `[rows, n]`; raises InvalidQuery where these aren't so many bytes."""
    if len(data) % (4 * rows):
        raise errors.InvalidQuery("vector", f"{len(data)} bytes are no {rows} rows of float32.")
    return np.frombuffer(data, _FLOATS).astype(np.float32, copy=False).reshape(rows, -1)
