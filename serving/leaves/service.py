"""What a leaf answers a root: decode, delegate, encode. Errors are left to the layers around it."""

from typing import Any

from lookalike.leaf.v1 import leaf_pb2, leaf_pb2_grpc
from serving.gateway import conversion
from serving.leaves import messages
from serving.search import errors
from serving.search.leaf_search import LeafSearch

SERVICE = "lookalike.leaf.v1.LeafService"


class LeafServicer(leaf_pb2_grpc.LeafServiceServicer):
    """`lookalike.leaf.v1.LeafService` over the shards of this process."""

    def __init__(self, leaf: LeafSearch, request_seconds: float) -> None:
        """request_seconds: the longest that a request may take, whatever deadline the root gives."""
        self._leaf = leaf
        self._request_seconds = request_seconds

    async def Search(self, request: Any, context: Any) -> Any:
        """Returns the best of this leaf's items for each query."""
        self._check(request)
        queries = [messages.to_query(query) for query in request.queries]
        results = await self._leaf.search(queries, release_id=request.release_id, timeout=self._timeout(context))
        found = [messages.from_result(result) for result in results]
        return leaf_pb2.SearchResponse(release_id=request.release_id, results=found)

    async def GetItems(self, request: Any, context: Any) -> Any:
        """Returns items by id."""
        self._check(request)
        found = await self._leaf.items(
            list(request.item_ids),
            release_id=request.release_id,
            thumbnails=request.thumbnails,
            embeddings=request.embeddings,
            timeout=self._timeout(context),
        )
        results = [messages.from_leaf_item(item) for item in found]
        return leaf_pb2.GetItemsResponse(release_id=request.release_id, results=results)

    async def Upsert(self, request: Any, context: Any) -> Any:
        """Upserts items of this leaf's shards."""
        self._leaf.check_share(messages.to_share(request.share))
        items = conversion.to_changes(request.batch.requests, conversion.to_upsert)
        outcomes = await self._leaf.upsert(items, timeout=self._timeout(context))
        return leaf_pb2.UpsertResponse(batch=conversion.to_batch_upsert_response(outcomes))

    async def Delete(self, request: Any, context: Any) -> Any:
        """Deletes items of this leaf's shards."""
        self._leaf.check_share(messages.to_share(request.share))
        items = conversion.to_changes(request.batch.requests, conversion.to_delete)
        outcomes = await self._leaf.delete(items, timeout=self._timeout(context))
        return leaf_pb2.DeleteResponse(batch=conversion.to_batch_delete_response(outcomes))

    async def GetStatus(self, request: Any, context: Any) -> Any:
        """Returns what this leaf holds."""
        return messages.from_status(await self._leaf.status(timeout=self._timeout(context)))

    def _check(self, request: Any) -> None:
        self._leaf.check_share(messages.to_share(request.share))
        if not request.release_id:
            raise errors.InvalidQuery("release_id", "release_id must be given: a root merges answers of one release.")

    def _timeout(self, context: Any) -> float:
        left = context.time_remaining()
        return self._request_seconds if left is None else min(left, self._request_seconds)
