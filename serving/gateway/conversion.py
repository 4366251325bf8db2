"""Messages of `lookalike.retrieval.v1` to the core's dataclasses, and back."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from lookalike.retrieval.v1 import retrieval_pb2
from serving import attributes, filter_messages
from serving.gateway import status, wire
from serving.release.items import Item
from serving.search import errors
from serving.search.catalog import Entry, State
from serving.search.changes import Changed, ItemDelete, ItemUpsert
from serving.search.filters import FilterError
from serving.search.query import Query, check_batch
from serving.search.results import BatchResult, EncodeResult, ItemsResult, SearchResult
from serving.search.view import Method

METHODS = {
    Method.EXACT.name: retrieval_pb2.SEARCH_METHOD_EXACT,
    Method.INDEX.name: retrieval_pb2.SEARCH_METHOD_INDEX,
    Method.EXACT_FILTERED.name: retrieval_pb2.SEARCH_METHOD_EXACT_FILTERED,
    Method.INDEX_FILTERED.name: retrieval_pb2.SEARCH_METHOD_INDEX_FILTERED,
}
_STATES = {
    State.STORED: retrieval_pb2.RELEASE_STATE_STORED,
    State.SERVED: retrieval_pb2.RELEASE_STATE_SERVED,
    State.HELD: retrieval_pb2.RELEASE_STATE_HELD,
    State.REFUSED: retrieval_pb2.RELEASE_STATE_REFUSED,
}
_FLOATS = np.dtype("<f4")
_log = logging.getLogger(__name__)
C = TypeVar("C")


def to_query(request: Any) -> Query:
    """Returns the query of a SearchRequest; raises InvalidQuery."""
    kind = request.WhichOneof("query")
    return Query(
        k=request.k,
        min_score=request.min_score if request.HasField("min_score") else None,
        filter=_filter(request.filter) if request.HasField("filter") else None,
        collapse_score=request.collapse_score if request.HasField("collapse_score") else None,
        collapse_groups=request.collapse_groups,
        image=request.image if kind == "image" else None,
        vector=_values(request.vector) if kind == "vector" else None,
        item_id=request.item_id if kind == "item_id" else None,
        release_id=request.release_id,
    )


def to_queries(request: Any) -> list[Query | Exception]:
    """Returns the queries of a BatchSearchRequest, or for each what is wrong with it.

    Raises InvalidQuery where something is wrong with the batch.
    """
    check_batch([query.k for query in request.requests])
    queries: list[Query | Exception] = []
    for message in request.requests:
        try:
            query = to_query(message)
            if query.release_id not in ("", request.release_id):
                raise errors.InvalidQuery("release_id", "a query's release_id must be empty, or that of its batch.")
            queries.append(query)
        except errors.InvalidQuery as error:
            queries.append(error)
    return queries


def to_upsert(request: Any) -> ItemUpsert:
    """Returns what an UpsertRequest asks for; raises InvalidQuery."""
    values = {name: attributes.from_message(value) for name, value in request.attributes.items()}
    return ItemUpsert(request.item_id, request.image, values, request.uri)


def to_delete(request: Any) -> ItemDelete:
    """Returns what a DeleteRequest asks for; raises InvalidQuery."""
    return ItemDelete(request.item_id, request.purge)


def to_changes(requests: Sequence[Any], convert: Callable[[Any], C]) -> list[C | Exception]:
    """Returns what each request of a batch asks for, or what is wrong with it."""
    changes: list[C | Exception] = []
    for request in requests:
        try:
            changes.append(convert(request))
        except errors.InvalidQuery as error:
            changes.append(error)
    return changes


def to_upsert_response(changed: Changed) -> Any:
    """Returns an UpsertResponse."""
    return retrieval_pb2.UpsertResponse(
        stamp=_stamp(changed),
        sha256=changed.sha256,
        replaced=changed.known,
        release_id=changed.release_id,
        reindex_advised=changed.advised,
    )


def to_delete_response(changed: Changed) -> Any:
    """Returns a DeleteResponse."""
    return retrieval_pb2.DeleteResponse(
        stamp=_stamp(changed), found=changed.known, release_id=changed.release_id, reindex_advised=changed.advised
    )


def to_batch_upsert_response(outcomes: Sequence[Changed | Exception]) -> Any:
    """Returns a BatchUpsertResponse."""
    results = [
        retrieval_pb2.BatchUpsertResult(error=_error(outcome))
        if isinstance(outcome, Exception)
        else retrieval_pb2.BatchUpsertResult(response=to_upsert_response(outcome))
        for outcome in outcomes
    ]
    return retrieval_pb2.BatchUpsertResponse(results=results)


def to_batch_delete_response(outcomes: Sequence[Changed | Exception]) -> Any:
    """Returns a BatchDeleteResponse."""
    results = [
        retrieval_pb2.BatchDeleteResult(error=_error(outcome))
        if isinstance(outcome, Exception)
        else retrieval_pb2.BatchDeleteResult(response=to_delete_response(outcome))
        for outcome in outcomes
    ]
    return retrieval_pb2.BatchDeleteResponse(results=results)


def render(item: Item) -> wire.ItemPart:
    """Returns an item as answers to a search hold it."""
    return wire.item(to_item(item).SerializeToString())


def to_search_response(result: SearchResult) -> bytes:
    """Returns a SearchResponse, serialized. The items are what `render` made."""
    release = result.release_id, result.encoder_version
    rest = _answered_by(*release, result.method._name_, result.matching, result.coverage)
    if result.timings is not None:
        rest += wire.timings(*result.timings)
    more = [
        _collapsed(count, ids) if count else b""
        for count, ids in zip(result.collapsed, result.collapsed_ids, strict=True)
    ]
    return wire.search_response(result.items, result.scores, more, rest)


def to_batch_response(result: BatchResult) -> bytes:
    """Returns a BatchSearchResponse, serialized. Errors that aren't ours are logged here: nobody else sees them."""
    results = []
    for outcome in result.outcomes:
        if isinstance(outcome, Exception):
            if not isinstance(outcome, errors.RetrievalError):
                _log.error("a query of a batch failed: %s", outcome, exc_info=outcome)
            # Our Status is google.rpc's, byte for byte.
            results.append((False, status.to_status(outcome).SerializeToString()))
        else:
            results.append((True, to_search_response(outcome)))
    rest = retrieval_pb2.BatchSearchResponse(release_id=result.release_id, encoder_version=result.encoder_version)
    return wire.batch_response(results, rest.SerializeToString() + wire.timings(*result.timings))


def to_encode_response(result: EncodeResult) -> Any:
    """Returns an EncodeResponse."""
    return retrieval_pb2.EncodeResponse(
        embedding=retrieval_pb2.Vector(values=result.embedding.tolist()),
        release_id=result.release_id,
        encoder_version=result.encoder_version,
    )


def to_item_response(result: ItemsResult) -> Any:
    """Returns a GetItemResponse of the only item."""
    [item] = result.items
    return retrieval_pb2.GetItemResponse(item=item and to_item(item), release_id=result.release_id)


def to_items_response(item_ids: list[str], result: ItemsResult) -> Any:
    """Returns a BatchGetItemsResponse."""
    results = [
        retrieval_pb2.BatchGetItemsResult(item_id=item_id, item=None if item is None else to_item(item))
        for item_id, item in zip(item_ids, result.items, strict=True)
    ]
    return retrieval_pb2.BatchGetItemsResponse(results=results, release_id=result.release_id)


def to_release(entry: Entry) -> Any:
    """Returns a Release message."""
    state = {"state": _STATES[entry.state], "current": entry.current, "problem": entry.problem}
    manifest = entry.manifest
    if manifest is None:
        return retrieval_pb2.Release(release_id=entry.release_id, **state)
    return retrieval_pb2.Release(
        release_id=manifest.release_id,
        created_seconds=manifest.created,
        parent=manifest.parent or "",
        encoder_model=manifest.encoder.model,
        encoder_version=manifest.encoder.version,
        encoder_digest=manifest.encoder.digest,
        dimension=manifest.encoder.dimension,
        index_kind=manifest.index.kind,
        count=manifest.index.count,
        **state,
    )


def to_item(item: Item) -> Any:
    """Returns an Item message."""
    return retrieval_pb2.Item(
        item_id=item.item_id,
        uri=item.uri,
        sha256=item.sha256,
        width=item.width,
        height=item.height,
        attributes={name: attributes.to_message(value) for name, value in item.attributes.items()},
        thumbnail=item.thumbnail,
        duplicate_group=item.duplicate_group,
    )


def _values(vector: Any) -> Any:
    # As bytes, where they lie one after the other: to take them out of the message one by one takes four times as long.
    data = vector.SerializeToString()
    size = 4 * len(vector.values)
    head = wire.packed_floats(size)
    if data.startswith(head):
        return np.frombuffer(data, _FLOATS, size // 4, len(head))
    return np.array(vector.values, np.float32)


def _stamp(changed: Changed) -> Any:
    return retrieval_pb2.Stamp(
        milliseconds=changed.stamp.milliseconds, count=changed.stamp.count, writer=changed.stamp.writer
    )


def _error(error: Exception) -> Any:
    if not isinstance(error, errors.RetrievalError):
        _log.error("a change of a batch failed: %s", error, exc_info=error)
    # Our Status is google.rpc's, byte for byte.
    return retrieval_pb2.Status.FromString(status.to_status(error).SerializeToString())


def _filter(message: Any) -> Any:
    try:
        return filter_messages.from_message(message)
    except FilterError as error:
        raise errors.InvalidQuery(error.part, str(error)) from error


def _collapsed(count: int, item_ids: Sequence[str]) -> bytes:
    data: bytes = retrieval_pb2.Neighbor(collapsed_count=count, collapsed_item_ids=item_ids).SerializeToString()
    return data


# Nearly all answers come from the one release, each by one of few methods.
@functools.lru_cache(maxsize=1024)
def _answered_by(release_id: str, encoder_version: int, method: str, matching: int | None, coverage: float) -> bytes:
    response = retrieval_pb2.SearchResponse(
        release_id=release_id,
        encoder_version=encoder_version,
        method=METHODS[method],
        matching_count=matching,
        coverage=coverage,
        degraded=coverage < 1,
    )
    data: bytes = response.SerializeToString()
    return data
