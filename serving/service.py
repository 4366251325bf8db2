"""The gRPC methods: decode, delegate to the core, encode. Errors are left to the interceptor."""

from typing import Any

from lookalike.retrieval.v1 import retrieval_pb2_grpc
from serving import conversion
from serving.deadline import Deadline
from serving.retrieval import Retrieval


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """`lookalike.retrieval.v1.RetrievalService` over the core."""

    def __init__(self, retrieval: Retrieval, request_seconds: float) -> None:
        """request_seconds: the longest that a request may take, whatever deadline the client gives."""
        self._retrieval = retrieval
        self._request_seconds = request_seconds

    async def Search(self, request: Any, context: Any) -> Any:
        """Returns the items most like the query."""
        result = await self._retrieval.search(conversion.to_query(request), self._deadline(context))
        return conversion.to_search_response(result)

    async def Encode(self, request: Any, context: Any) -> Any:
        """Returns the embedding of an image."""
        result = await self._retrieval.encode(request.image, self._deadline(context))
        return conversion.to_encode_response(result)

    async def GetItem(self, request: Any, context: Any) -> Any:
        """Returns one item."""
        result = await self._retrieval.get_item(request.item_id, self._deadline(context), thumbnail=request.thumbnail)
        return conversion.to_item_response(result)

    async def GetRelease(self, request: Any, context: Any) -> Any:
        """Returns what is being served."""
        return conversion.to_release_response(self._retrieval.get_release())

    def _deadline(self, context: Any) -> Deadline:
        left = context.time_remaining()
        return Deadline(self._request_seconds if left is None else min(left, self._request_seconds))
