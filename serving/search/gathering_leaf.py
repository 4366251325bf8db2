"""A leaf that is asked for several queries in one call where the call costs more than the search.

In Python a call to a leaf takes both sides some hundred microseconds, a search of a small shard less. Where a leaf
searches one query after the other anyway, those that come while a call is under way wait for its end, and then go
together; what else would they do in the leaf but wait? Nothing waits where there is nothing to wait for, and none for
long.
"""

import asyncio
import collections
from collections.abc import Sequence
from typing import NamedTuple

from serving.search import errors
from serving.search.changes import Changed, ItemDelete, ItemUpsert
from serving.search.leaf import Leaf, LeafItem, LeafQuery, LeafResult, LeafStatus

# The longest that a query waits for the end of a call before it: that one may read a slow disk, or be lost.
PATIENCE_SECONDS = 0.005
# Queries in one call, so that none waits long for those beside it.
MOST_TOGETHER = 32


class _Waiting(NamedTuple):
    """A query that waits for a call. end: by the loop's clock, when nobody waits for it any more."""

    query: LeafQuery
    release_id: str
    end: float
    answer: "asyncio.Future[LeafResult]"

    def goes_with(self, other: "_Waiting") -> bool:
        """Whether both may be asked for in one call: queries for as many take about as long."""
        return self.release_id == other.release_id and self.query.k == other.query.k


class GatheringLeaf:
    """A Leaf that asks another one. Belongs to an event loop."""

    def __init__(self, leaf: Leaf) -> None:
        self._leaf = leaf
        # Whether it searches so fast; it says so itself.
        self._brief = False
        self._under_way = 0
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._calls: set[asyncio.Task[None]] = set()
        # Of those that wait, while there are any.
        self._timer: asyncio.TimerHandle | None = None

    async def search(self, queries: Sequence[LeafQuery], *, release_id: str, timeout: float) -> list[LeafResult]:
        """See Leaf."""
        if not self._brief or len(queries) != 1 or not queries[0].plain:
            return await self._leaf.search(queries, release_id=release_id, timeout=timeout)
        if not self._under_way:
            self._under_way += 1
            try:
                return await self._leaf.search(queries, release_id=release_id, timeout=timeout)
            finally:
                self._ended()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(queries[0], release_id, loop.time() + timeout, loop.create_future())
        self._waiting.append(waiting)
        self._wait()
        timer = loop.call_at(waiting.end, _give_up, waiting)
        try:
            return [await waiting.answer]
        finally:
            timer.cancel()

    async def items(
        self, item_ids: Sequence[str], *, release_id: str, thumbnails: bool, embeddings: bool, timeout: float
    ) -> list[LeafItem | None]:
        """See Leaf."""
        return await self._leaf.items(
            item_ids, release_id=release_id, thumbnails=thumbnails, embeddings=embeddings, timeout=timeout
        )

    async def upsert(self, items: Sequence[ItemUpsert], *, timeout: float) -> list[Changed | Exception]:
        """See Leaf."""
        return await self._leaf.upsert(items, timeout=timeout)

    async def delete(self, items: Sequence[ItemDelete], *, timeout: float) -> list[Changed | Exception]:
        """See Leaf."""
        return await self._leaf.delete(items, timeout=timeout)

    async def status(self, *, timeout: float) -> LeafStatus:
        """See Leaf."""
        status = await self._leaf.status(timeout=timeout)
        self._brief = status.brief
        return status

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._send)

    def _ended(self) -> None:
        self._under_way -= 1
        if self._waiting:
            self._send()

    def _send(self) -> None:
        """Asks for those that wait, or as many of them as go together."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        group: list[_Waiting] = []
        while self._waiting and len(group) < MOST_TOGETHER:
            if self._waiting[0].answer.done():
                # Given up.
                self._waiting.popleft()
            elif not group or group[0].goes_with(self._waiting[0]):
                group.append(self._waiting.popleft())
            else:
                break
        if self._waiting:
            self._wait()
        if group:
            self._under_way += 1
            call = asyncio.get_running_loop().create_task(self._ask(group))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _ask(self, group: Sequence[_Waiting]) -> None:
        try:
            left = max(waiting.end for waiting in group) - asyncio.get_running_loop().time()
            queries = [waiting.query for waiting in group]
            results = await self._leaf.search(queries, release_id=group[0].release_id, timeout=left)
            for waiting, result in zip(group, results, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(result)
        except Exception as error:
            # The call's is each one's.
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        finally:
            for waiting in group:
                # Where the call itself was cancelled.
                waiting.answer.cancel()
            self._ended()


def _give_up(waiting: _Waiting) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(errors.DeadlineExceeded("the deadline passed before the leaf had answered."))
