"""Upserts and deletes at a root: each goes to the leaf that its item belongs to, which keeps and searches it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from serving.search import errors
from serving.search.changes import MAX_DELETES, MAX_UPSERTS, Changed, ItemDelete, ItemUpsert, check_count
from serving.search.deadline import Deadline
from serving.search.fanout import FanOut
from serving.search.held import Held
from serving.search.leaf import Leaf
from serving.search.retrieval import raised

C = TypeVar("C", ItemUpsert, ItemDelete)
_NOT_YET = RuntimeError("it has no outcome")


class ForwardedUpdates:
    """As Updates, but done elsewhere. upserts, deletes: how many were acknowledged."""

    def __init__(self, held: Held, fan_out: FanOut, *, allowed: bool) -> None:
        """allowed: whether any are taken here."""
        self._held = held
        self._fan_out = fan_out
        self._allowed = allowed
        self.upserts = 0
        self.deletes = 0

    async def upsert(self, item: ItemUpsert, deadline: Deadline) -> Changed:
        """See Updates."""
        return raised((await self.batch_upsert([item], deadline))[0])

    async def delete(self, item: ItemDelete, deadline: Deadline) -> Changed:
        """See Updates."""
        return raised((await self.batch_delete([item], deadline))[0])

    async def batch_upsert(
        self, items: Sequence[ItemUpsert | Exception], deadline: Deadline
    ) -> list[Changed | Exception]:
        """See Updates; what belongs to a leaf that is away has LeafUnavailable for its outcome."""
        check_count(len(items), MAX_UPSERTS)
        outcomes = await self._forward(items, deadline, lambda leaf, own, timeout: leaf.upsert(own, timeout=timeout))
        self.upserts += sum(isinstance(outcome, Changed) for outcome in outcomes)
        return outcomes

    async def batch_delete(
        self, items: Sequence[ItemDelete | Exception], deadline: Deadline
    ) -> list[Changed | Exception]:
        """As batch_upsert."""
        check_count(len(items), MAX_DELETES)
        outcomes = await self._forward(items, deadline, lambda leaf, own, timeout: leaf.delete(own, timeout=timeout))
        self.deletes += sum(isinstance(outcome, Changed) for outcome in outcomes)
        return outcomes

    async def _forward(
        self,
        items: Sequence[C | Exception],
        deadline: Deadline,
        call: Callable[[Leaf, list[C], float], Awaitable[list[Changed | Exception]]],
    ) -> list[Changed | Exception]:
        if not self._allowed:
            raise errors.UpdatesNotAllowed("this root takes no updates: it has neither admin_tokens nor allow_updates.")
        outcomes: list[Any] = [item if isinstance(item, Exception) else _NOT_YET for item in items]
        good = {place: item for place, item in enumerate(items) if not isinstance(item, Exception)}
        with self._held.take() as holding:
            done = await self._fan_out.change(list(good.values()), holding.release.manifest, deadline, call)
        for place, outcome in zip(good, done, strict=True):
            outcomes[place] = outcome
        return outcomes
