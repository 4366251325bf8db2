"""What a root makes of leaves that answer, that fail, and that don't answer."""

import asyncio
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from serving.encoders.breaker import State
from serving.release.share import Share
from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.fanout import FanOut
from serving.search.leaf import LeafItem, LeafQuery, LeafResult, LeafStatus
from serving.search.replicated_leaf import Hedging, ReplicatedLeaf
from serving.search.view import Method
from tests.serving.loop_thread import LoopThread

# Four shards of 100 items in all, over three leaves: the first one has two of them.
COUNTS = [40, 30, 20, 10]
MANIFEST: Any = types.SimpleNamespace(
    release_id="r1",
    index=types.SimpleNamespace(count=100, shards=[types.SimpleNamespace(count=count) for count in COUNTS]),
)
QUERY = LeafQuery(np.ones(4, np.float32), 1)


class FakeLeaf:
    """Finds one item, its own name. gate: what a search waits for. raises: what it fails with."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.gate = asyncio.Event()
        self.gate.set()
        self.raises: Exception | None = None
        self.releases = frozenset({"r1"})
        self.timeouts: list[float] = []

    async def search(self, queries: Sequence[LeafQuery], *, release_id: str, timeout: float) -> list[LeafResult]:
        self.timeouts.append(timeout)
        await self.gate.wait()
        if self.raises is not None:
            raise self.raises
        return [LeafResult([str(self.share)], np.ones(1, np.float32), Method.EXACT) for _ in queries]

    async def items(self, item_ids: Sequence[str], **options: Any) -> list[LeafItem | None]:
        if self.raises is not None:
            raise self.raises
        return [None] * len(item_ids)

    async def upsert(self, items: Sequence[Any], *, timeout: float) -> list[Any]:
        self.timeouts.append(timeout)
        return [str(self.share)] * len(items)

    async def delete(self, items: Sequence[Any], *, timeout: float) -> list[Any]:
        raise AssertionError

    async def status(self, *, timeout: float) -> LeafStatus:
        if self.raises is not None:
            raise self.raises
        return LeafStatus(self.share, self.releases)


class Root:
    """Three leaves that were looked at. covered: what was told of each search."""

    def __init__(self, seconds: float = 30.0, min_coverage: float = 0.3) -> None:
        self.leaves = [FakeLeaf(Share(number, 3)) for number in range(3)]
        self.covered: list[float] = []
        groups = [
            ReplicatedLeaf(
                leaf.share, [("a leaf", leaf)], seconds=30.0, failures=2, pause=1000.0, hedging=Hedging(0.95, 0.0)
            )
            for leaf in self.leaves
        ]
        self.fan_out = FanOut(groups, seconds=seconds, min_coverage=min_coverage, covered=self.covered.append)

    async def look(self) -> None:
        for leaf in self.fan_out.leaves:
            await leaf.look()

    async def search(self, seconds: float = 30.0) -> tuple[set[str], float]:
        gathered = await self.fan_out.search([QUERY], MANIFEST, Deadline(seconds))
        return {item for [result] in gathered.results for item in result.items}, gathered.coverage


def run(loop: LoopThread, test: Callable[[], Any]) -> None:
    loop.run(test())


def test_all_that_answer_are_all(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root()
        await root.look()
        assert await root.search() == ({"0/3", "1/3", "2/3"}, 1.0)
        assert root.covered == [1.0]

    run(loop, test)


@pytest.mark.parametrize(("away", "coverage"), [({0}, 0.5), ({1}, 0.7), ({2}, 0.8), ({1, 2}, 0.5)])
def test_coverage_is_by_the_counts_of_shards(loop: LoopThread, away: set[int], coverage: float) -> None:
    async def test() -> None:
        root = Root()
        await root.look()
        for number in away:
            root.leaves[number].raises = errors.LeafUnavailable("refused")
        found, covered = await root.search()
        assert found == {f"{number}/3" for number in {0, 1, 2} - away} and covered == pytest.approx(coverage)

    run(loop, test)


def test_a_leaf_that_does_not_answer_is_left_out_in_time_and_then_not_asked(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root(seconds=0.25)
        await root.look()
        root.leaves[1].gate.clear()
        for _ in range(4):
            assert await root.search() == ({"0/3", "2/3"}, 0.7)
        # This one ignores its own time; the root gave it up, and that says nothing to the breaker.
        assert len(root.leaves[1].timeouts) == 4 and max(root.leaves[1].timeouts) <= 0.25
        root.leaves[1].raises = errors.DeadlineExceeded("too late")
        root.leaves[1].gate.set()
        for _ in range(4):
            assert await root.search() == ({"0/3", "2/3"}, 0.7)
        assert root.fan_out.leaves[1].replicas[0].breaker.state is State.OPEN
        assert len(root.leaves[1].timeouts) == 6

    run(loop, test)


def test_leaves_get_less_than_the_root_has(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root()
        await root.look()
        for seconds in (0.1, 1.0, 100.0):
            await root.search(seconds)
        short, long, longest = root.leaves[0].timeouts
        assert short <= 0.09 and long <= 0.98 and longest == 30.0

    run(loop, test)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (errors.Overloaded("too much"), errors.Overloaded),
        (errors.ReleaseNotHeld("r1", "r2"), errors.ReleaseNotHeld),
        (errors.DeadlineExceeded("too late"), errors.DeadlineExceeded),
        (errors.LeafUnavailable("refused"), errors.CoverageTooLow),
        (ValueError("a fault of ours"), errors.CoverageTooLow),
    ],
)
def test_why_there_is_no_answer(loop: LoopThread, raised: Exception, told: type[Exception]) -> None:
    async def test() -> None:
        root = Root()
        await root.look()
        for leaf in root.leaves:
            leaf.raises = raised
        with pytest.raises(told):
            await root.search()
        assert root.covered == [0.0]

    run(loop, test)


def test_items_and_changes_go_to_their_owners(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root()
        await root.look()
        names = [f"item-{number}" for number in range(12)]
        changes = [types.SimpleNamespace(item_id=name) for name in names]
        owners: list[Any] = await root.fan_out.change(
            changes,  # type: ignore[type-var]
            MANIFEST,
            Deadline(100.0),
            lambda leaf, own, timeout: leaf.upsert(own, timeout=timeout),
        )
        assert set(owners) == {"0/3", "1/3", "2/3"}
        # A change may take as long as there is time.
        assert min(leaf.timeouts[0] for leaf in root.leaves) > 90.0
        root.leaves[1].raises = errors.LeafUnavailable("refused")
        found = await root.fan_out.items(names, MANIFEST, Deadline(5.0), thumbnails=False, embeddings=True)
        assert [isinstance(outcome, errors.LeafUnavailable) for outcome in found] == [o == "1/3" for o in owners]

    run(loop, test)


def test_nothing_is_asked_of_nobody(loop: LoopThread) -> None:
    async def test() -> None:
        root = Root()
        await root.look()
        assert await root.fan_out.items([], MANIFEST, Deadline(5.0), thumbnails=False, embeddings=False) == []

    run(loop, test)


@pytest.mark.parametrize(
    ("holding", "served_holding", "away", "early"),
    [
        # Everybody holds it.
        ({0, 1, 2}, {0, 1, 2}, set(), False),
        # One is still loading.
        ({0, 2}, {0, 1, 2}, set(), True),
        # One is away: it is not waited for.
        ({0, 2}, {0, 2}, {1}, False),
        # One never will, and the others don't hold the old one any more.
        ({0, 2}, {1}, set(), False),
        # Too little of it.
        ({2}, set(), {0, 1}, True),
        # Nothing was served before.
        ({0, 2}, None, set(), False),
    ],
)
def test_when_it_is_time_for_a_release(
    loop: LoopThread, holding: set[int], served_holding: set[int] | None, away: set[int], early: bool
) -> None:
    async def test() -> None:
        root = Root()
        for number, leaf in enumerate(root.leaves):
            new, old = {"r1"} if number in holding else set(), {"r0"} if number in (served_holding or ()) else set()
            leaf.releases = frozenset(new | old)
            if number in away:
                leaf.raises = errors.LeafUnavailable("refused")
        release: Any = types.SimpleNamespace(manifest=MANIFEST)
        old_manifest = types.SimpleNamespace(release_id="r0", index=MANIFEST.index)
        served: Any = None if served_holding is None else types.SimpleNamespace(manifest=old_manifest)
        if early:
            with pytest.raises(errors.LeafUnavailable, match=r"leaves hold 0\.\d+ of it, and 0\.3 is the least"):
                await root.fan_out.check_held(release, served)
        else:
            await root.fan_out.check_held(release, served)

    run(loop, test)
