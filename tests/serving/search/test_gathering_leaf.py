"""Which queries wait for a call before them, which go together, and what becomes of them."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from serving.release.share import Share
from serving.search import errors
from serving.search.gathering_leaf import MOST_TOGETHER, GatheringLeaf
from serving.search.leaf import LeafItem, LeafQuery, LeafResult, LeafStatus
from serving.search.view import Method
from tests.serving.loop_thread import LoopThread


class FakeLeaf:
    """Finds for each query one item, the query's own number. gates: what each call waits for, in turn; calls: the
    numbers that each was asked for. raises: what they fail with.
    """

    def __init__(self, brief: bool) -> None:
        self.brief = brief
        self.gates: list[asyncio.Event] = []
        self.calls: list[list[int]] = []
        self.raises: Exception | None = None

    async def search(self, queries: Sequence[LeafQuery], *, release_id: str, timeout: float) -> list[LeafResult]:
        numbers = [int(query.vector[0]) for query in queries]
        self.calls.append(numbers)
        if len(self.calls) <= len(self.gates):
            await self.gates[len(self.calls) - 1].wait()
        if self.raises is not None:
            raise self.raises
        return [LeafResult([number], np.ones(1, np.float32), Method.EXACT) for number in numbers]

    async def items(self, item_ids: Sequence[str], **options: Any) -> list[LeafItem | None]:
        return [None] * len(item_ids)

    async def upsert(self, items: Sequence[Any], *, timeout: float) -> list[Any]:
        raise AssertionError

    async def delete(self, items: Sequence[Any], *, timeout: float) -> list[Any]:
        raise AssertionError

    async def status(self, *, timeout: float) -> LeafStatus:
        return LeafStatus(Share(0, 1), frozenset({"r1"}), self.brief)


class Root:
    """Asks a leaf of which the first call doesn't end until `gate` is open."""

    def __init__(self, brief: bool = True) -> None:
        self.fake = FakeLeaf(brief)
        self.gate = asyncio.Event()
        self.fake.gates = [self.gate]
        self.leaf = GatheringLeaf(self.fake)

    async def begin(self) -> "asyncio.Task[Any]":
        """Looks at the leaf, and begins the call that others wait for."""
        await self.leaf.status(timeout=30.0)
        first = self.ask(0)
        await asyncio.sleep(0)
        assert self.fake.calls == [[0]]
        return first

    def ask(self, number: int, *, release: str = "r1", timeout: float = 30.0, **more: Any) -> "asyncio.Task[Any]":
        query = dataclasses.replace(LeafQuery(np.full(2, number, np.float32), 10), **more)
        return asyncio.create_task(self._found(query, release, timeout))

    async def _found(self, query: LeafQuery, release: str, timeout: float) -> int:
        [result] = await self.leaf.search([query], release_id=release, timeout=timeout)
        return int(result.items[0])


def run(loop: LoopThread, test: Callable[[], Any]) -> None:
    loop.run(test())


def test_those_that_wait_go_together(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        root = Root()
        first = await root.begin()
        others = [root.ask(number) for number in range(1, 5)]
        await asyncio.sleep(0)
        assert root.fake.calls == [[0]]
        root.gate.set()
        assert await asyncio.gather(first, *others) == [0, 1, 2, 3, 4]
        assert root.fake.calls == [[0], [1, 2, 3, 4]]
        # Nobody is there to wait for.
        assert await root.ask(5) == 5

    monkeypatch.setattr("serving.search.gathering_leaf.PATIENCE_SECONDS", 30.0)
    run(loop, test)


def test_a_leaf_that_takes_its_time_is_asked_by_each(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root(brief=False)
        first = await root.begin()
        assert await asyncio.gather(*(root.ask(number) for number in (1, 2))) == [1, 2]
        assert root.fake.calls == [[0], [1], [2]]
        root.gate.set()
        await first

    run(loop, test)


def test_what_is_not_alike_goes_by_itself(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        root = Root()
        first = await root.begin()
        # What may take longer than others waits for nobody, and nobody for it.
        assert await root.ask(1, min_score=0.5) == 1
        others = [root.ask(2), root.ask(3), root.ask(4, k=20), root.ask(5, release="r2")]
        await asyncio.sleep(0)
        root.gate.set()
        assert await asyncio.gather(first, *others) == [0, 2, 3, 4, 5]
        assert root.fake.calls == [[0], [1], [2, 3], [4], [5]]

    monkeypatch.setattr("serving.search.gathering_leaf.PATIENCE_SECONDS", 30.0)
    run(loop, test)


def test_no_more_than_so_many_go_together(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root()
        first = await root.begin()
        others = [root.ask(number) for number in range(1, MOST_TOGETHER + 3)]
        await asyncio.sleep(0)
        root.gate.set()
        assert await asyncio.gather(first, *others) == list(range(MOST_TOGETHER + 3))
        assert [len(call) for call in root.fake.calls] == [1, MOST_TOGETHER, 2]

    run(loop, test)


def test_a_call_that_does_not_end_is_not_waited_for_long(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root()
        first = await root.begin()
        assert await asyncio.gather(root.ask(1), root.ask(2)) == [1, 2]
        assert not first.done()
        root.gate.set()
        assert await first == 0

    run(loop, test)


def test_a_failure_is_that_of_each(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root()
        first = await root.begin()
        others = [root.ask(1), root.ask(2)]
        await asyncio.sleep(0)
        root.fake.raises = errors.Overloaded("too much")
        root.gate.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [errors.Overloaded] * 3
        root.fake.raises = None
        assert await root.ask(3) == 3

    run(loop, test)


def test_who_has_given_up_is_not_asked_for(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        root = Root()
        first = await root.begin()
        cancelled, late, other = root.ask(1), root.ask(2, timeout=0.001), root.ask(3)
        with pytest.raises(errors.DeadlineExceeded):
            await late
        cancelled.cancel()
        await asyncio.wait({cancelled})
        root.gate.set()
        assert await asyncio.gather(first, other) == [0, 3]
        assert root.fake.calls == [[0], [3]]

    monkeypatch.setattr("serving.search.gathering_leaf.PATIENCE_SECONDS", 30.0)
    run(loop, test)


def test_a_call_that_is_cancelled_lets_the_next_go(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        root = Root()
        first = await root.begin()
        other = root.ask(1)
        await asyncio.sleep(0)
        first.cancel()
        assert await other == 1

    monkeypatch.setattr("serving.search.gathering_leaf.PATIENCE_SECONDS", 30.0)
    run(loop, test)
