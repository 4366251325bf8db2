"""Which replica of a leaf is asked, when another one is, and when none is."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serving.encoders.breaker import State
from serving.release.share import Share
from serving.search import errors
from serving.search.leaf import LeafItem, LeafQuery, LeafResult, LeafStatus
from serving.search.replicated_leaf import Budget, Hedging, Latencies, ReplicatedLeaf
from tests.serving.loop_thread import LoopThread

SHARE = Share(1, 4)


class FakeLeaf:
    """Answers its name. gate: what a call waits for, open at first. raises: what it fails with. asked: how often."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = asyncio.Event()
        self.gate.set()
        self.raises: Exception | None = None
        self.held = LeafStatus(SHARE, frozenset({"r1"}))
        self.asked = 0
        self.cancelled = 0

    async def call(self) -> str:
        self.asked += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.raises is not None:
            raise self.raises
        return self.name

    async def search(self, queries: Sequence[LeafQuery], *, release_id: str, timeout: float) -> list[LeafResult]:
        raise AssertionError

    async def items(self, item_ids: Sequence[str], **options: Any) -> list[LeafItem | None]:
        raise AssertionError

    async def upsert(self, items: Sequence[Any], *, timeout: float) -> list[Any]:
        raise AssertionError

    async def delete(self, items: Sequence[Any], *, timeout: float) -> list[Any]:
        raise AssertionError

    async def status(self, *, timeout: float) -> LeafStatus:
        if self.raises is not None:
            raise self.raises
        return self.held


class Group:
    """A leaf of some replicas, looked at. told: how each call ended."""

    def __init__(self, count: int, *, share: float = 1.0, failures: int = 2, pause: float = 1000.0) -> None:
        self.leaves = [FakeLeaf(f"replica {number}") for number in range(count)]
        self.told: list[str] = []
        self.leaf = ReplicatedLeaf(
            SHARE,
            [(leaf.name, leaf) for leaf in self.leaves],
            seconds=30.0,
            failures=failures,
            pause=pause,
            hedging=Hedging(0.95, share),
            told=lambda share, outcome, seconds: self.told.append(outcome),
        )

    async def ask(self, timeout: float = 30.0, hedged: bool = False) -> str:
        return await self.leaf.ask(lambda leaf, timeout: leaf.call(), "r1", timeout, hedged=hedged)  # type: ignore[attr-defined]

    async def warm(self) -> None:
        """Looks, and asks so often that it is known how long calls take."""
        await self.leaf.look()
        for _ in range(64):
            await self.ask(hedged=True)
        for leaf in self.leaves:
            leaf.asked = 0
        self.told.clear()


def run(loop: LoopThread, test: Callable[[], Any]) -> None:
    loop.run(test())


def test_nobody_is_asked_who_was_not_seen(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(2)
        with pytest.raises(errors.LeafUnavailable, match="leaf 1/4 can't be reached, or doesn't hold release r1"):
            await group.ask()
        await group.leaf.look()
        assert await group.ask() in ("replica 0", "replica 1")
        with pytest.raises(errors.LeafUnavailable):
            await group.leaf.ask(lambda leaf, timeout: leaf.call(), "r2", 1.0)  # type: ignore[attr-defined]

    run(loop, test)


def test_replicas_take_turns(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(3)
        await group.leaf.look()
        for _ in range(9):
            await group.ask()
        assert [leaf.asked for leaf in group.leaves] == [3, 3, 3]

    run(loop, test)


def test_another_is_asked_where_one_fails(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(2, share=0.0)
        await group.leaf.look()
        group.leaves[0].raises = errors.LeafUnavailable("connection refused")
        assert {await group.ask() for _ in range(4)} == {"replica 1"}
        # After two failures in a row it isn't even tried.
        assert group.leaves[0].asked == 2
        assert group.leaf.replicas[0].breaker.state is State.OPEN
        group.leaves[1].raises = errors.LeafUnavailable("connection refused")
        with pytest.raises(errors.LeafUnavailable):
            await group.ask()

    run(loop, test)


def test_one_that_has_too_much_to_do_is_no_reason_to_ask_another(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(2)
        await group.leaf.look()
        for leaf in group.leaves:
            leaf.raises = errors.Overloaded("too much")
        with pytest.raises(errors.Overloaded):
            await group.ask()
        assert sum(leaf.asked for leaf in group.leaves) == 1
        assert all(replica.breaker.state is State.CLOSED for replica in group.leaf.replicas)

    run(loop, test)


def test_another_is_asked_where_one_is_slow_and_the_slow_one_goes_on(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(2)
        await group.warm()
        group.leaves[0].gate.clear()
        assert {await group.ask(hedged=True) for _ in range(6)} == {"replica 1"}
        # Since it had one it was asked no more but as the second: a quick one may be thought slow, too, by a loop that
        # has other things to do.
        slow = group.leaf.replicas[0]
        assert group.leaf.hedges_won == 1 and slow.under_way == group.leaves[0].asked >= 1
        assert group.told.count("ok") == 6 and group.leaves[0].cancelled == 0
        group.leaves[0].gate.set()
        while slow.under_way:
            await asyncio.sleep(0)
        assert group.told.count("ok") == 6 + group.leaves[0].asked
        assert slow.breaker.state is State.CLOSED

    run(loop, test)


def test_who_has_less_to_do_is_asked_first(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(3, share=0.0)
        await group.leaf.look()
        group.leaves[1].gate.clear()
        waiting = []
        while not group.leaves[1].asked:
            waiting.append(asyncio.create_task(group.ask()))
            await asyncio.sleep(0)
        assert "replica 1" not in {await group.ask() for _ in range(6)}
        group.leaves[1].gate.set()
        assert "replica 1" in await asyncio.gather(*waiting)

    run(loop, test)


def test_who_gives_up_leaves_nothing_under_way(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(2)
        await group.warm()
        for leaf in group.leaves:
            leaf.gate.clear()
        asking = asyncio.create_task(group.ask(hedged=True))
        while sum(leaf.asked for leaf in group.leaves) < 2:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        while any(replica.under_way for replica in group.leaf.replicas):
            await asyncio.sleep(0)
        assert [leaf.cancelled for leaf in group.leaves] == [1, 1]

    run(loop, test)


def test_hedges_have_a_budget(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(2, share=0.05)
        await group.warm()
        group.leaf.hedges = 0
        for leaf in group.leaves:
            leaf.gate.clear()
        for _ in range(40):
            with pytest.raises(errors.DeadlineExceeded):
                await group.ask(timeout=0.005, hedged=True)
        # What was saved before, at most 64 x 0.05, and 40 x 0.05.
        assert 1 <= group.leaf.hedges <= 5

    run(loop, test)


def test_what_is_not_like_others_is_not_hedged(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(2)
        await group.warm()
        for leaf in group.leaves:
            leaf.gate.clear()
        with pytest.raises(errors.DeadlineExceeded):
            await group.ask(timeout=0.02)
        assert sum(leaf.asked for leaf in group.leaves) == 1 and group.leaf.hedges == 0

    run(loop, test)


def test_one_that_is_away_is_not_asked_until_it_is_seen_again(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(1)
        await group.leaf.look()
        group.leaves[0].raises = errors.LeafUnavailable("connection refused")
        await group.leaf.look()
        assert not group.leaf.reachable and not group.leaf.holds("r1")
        with pytest.raises(errors.LeafUnavailable):
            await group.ask()
        assert group.leaves[0].asked == 0
        group.leaves[0].raises = None
        await group.leaf.look()
        assert await group.ask() == "replica 0"

    run(loop, test)


def test_whoever_is_seen_again_is_tried_at_once(loop: LoopThread) -> None:
    async def test() -> None:
        group = Group(1)
        await group.leaf.look()
        group.leaves[0].raises = errors.LeafUnavailable("connection refused")
        for _ in range(2):
            with pytest.raises(errors.LeafUnavailable, match="refused"):
                await group.ask()
        await group.leaf.look()
        group.leaves[0].raises = None
        await group.leaf.look()
        assert await group.ask() == "replica 0"

    run(loop, test)


def test_one_that_holds_another_share_is_not_there(loop: LoopThread, caplog: Any) -> None:
    async def test() -> None:
        group = Group(1)
        group.leaves[0].held = LeafStatus(Share(2, 4), frozenset({"r1"}))
        await group.leaf.look()
        await group.leaf.look()
        assert not group.leaf.reachable

    run(loop, test)
    assert caplog.text.count("it holds the share 2/4 and not 1/4.") == 1


def test_a_percentile_of_the_last_ones() -> None:
    latencies = Latencies(0.95, most=100, least=20)
    for _ in range(19):
        latencies.add(1000.0)
    assert latencies.bar is None
    for number in range(100):
        latencies.add(float(number))
    assert latencies.bar == 95.0


def test_a_budget_is_saved_up_to_a_burst() -> None:
    budget = Budget(0.5, burst=2.0)
    assert not budget.spend()
    for _ in range(100):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]
