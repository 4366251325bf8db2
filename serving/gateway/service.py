"""The gRPC methods: decode, delegate to the core, encode. Errors are left to the layers around them."""

from typing import Any

from lookalike.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from serving.gateway import conversion
from serving.search.catalog import Catalog
from serving.search.deadline import Deadline
from serving.search.forwarded_updates import ForwardedUpdates
from serving.search.retrieval import Retrieval
from serving.search.updates import Updates


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """`lookalike.retrieval.v1.RetrievalService` over the core. Answers are messages, or bytes of a message."""

    def __init__(
        self, retrieval: Retrieval, catalog: Catalog, updates: Updates | ForwardedUpdates, request_seconds: float
    ) -> None:
        """request_seconds: the longest that a request may take, whatever deadline the client gives."""
        self._retrieval = retrieval
        self._catalog = catalog
        self._updates = updates
        self._request_seconds = request_seconds

    async def Search(self, request: Any, context: Any) -> Any:
        """Returns the items most like the query."""
        result = await self._retrieval.search(conversion.to_query(request), self._deadline(context))
        return conversion.to_search_response(result)

    async def BatchSearch(self, request: Any, context: Any) -> Any:
        """Returns the outcome of each query."""
        queries = conversion.to_queries(request)
        result = await self._retrieval.batch_search(queries, self._deadline(context), release_id=request.release_id)
        return conversion.to_batch_response(result)

    async def Encode(self, request: Any, context: Any) -> Any:
        """Returns the embedding of an image."""
        deadline = self._deadline(context)
        result = await self._retrieval.encode(request.image, deadline, release_id=request.release_id)
        return conversion.to_encode_response(result)

    async def GetItem(self, request: Any, context: Any) -> Any:
        """Returns one item."""
        deadline, wanted = self._deadline(context), {"thumbnail": request.thumbnail, "release_id": request.release_id}
        return conversion.to_item_response(await self._retrieval.get_item(request.item_id, deadline, **wanted))

    async def BatchGetItems(self, request: Any, context: Any) -> Any:
        """Returns many items, or that they aren't there."""
        ids, wanted = list(request.item_ids), {"thumbnails": request.thumbnails, "release_id": request.release_id}
        return conversion.to_items_response(
            ids, await self._retrieval.get_items(ids, self._deadline(context), **wanted)
        )

    async def GetRelease(self, request: Any, context: Any) -> Any:
        """Returns what is being served, or one release."""
        entry = await self._catalog.get(request.release_id, self._deadline(context))
        return retrieval_pb2.GetReleaseResponse(release=conversion.to_release(entry))

    async def ListReleases(self, request: Any, context: Any) -> Any:
        """Returns a page of releases."""
        entries, token = await self._catalog.page(request.page_size, request.page_token, self._deadline(context))
        releases = [conversion.to_release(entry) for entry in entries]
        return retrieval_pb2.ListReleasesResponse(releases=releases, next_page_token=token)

    async def Upsert(self, request: Any, context: Any) -> Any:
        """Adds an item, or replaces the one with its id."""
        changed = await self._updates.upsert(conversion.to_upsert(request), self._deadline(context))
        return conversion.to_upsert_response(changed)

    async def BatchUpsert(self, request: Any, context: Any) -> Any:
        """Returns the outcome of each upsert."""
        items = conversion.to_changes(request.requests, conversion.to_upsert)
        return conversion.to_batch_upsert_response(await self._updates.batch_upsert(items, self._deadline(context)))

    async def Delete(self, request: Any, context: Any) -> Any:
        """Takes an item out."""
        changed = await self._updates.delete(conversion.to_delete(request), self._deadline(context))
        return conversion.to_delete_response(changed)

    async def BatchDelete(self, request: Any, context: Any) -> Any:
        """Returns the outcome of each delete."""
        items = conversion.to_changes(request.requests, conversion.to_delete)
        return conversion.to_batch_delete_response(await self._updates.batch_delete(items, self._deadline(context)))

    def _deadline(self, context: Any) -> Deadline:
        left = context.time_remaining()
        return Deadline(self._request_seconds if left is None else min(left, self._request_seconds))
