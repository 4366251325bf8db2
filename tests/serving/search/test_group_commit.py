"""Changes that are made at the same time are written together."""

import asyncio
from collections.abc import Sequence

import pytest

from serving.journal.clock import ClockAhead, Stamp
from serving.journal.entry import Change, Entry, Tombstone
from serving.search.group_commit import GroupCommit
from tests.serving.loop_thread import LoopThread


class Journal:
    """Writes when it is let. groups: what was written together. fails: raised for a group that holds an item."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.fails: dict[str, Exception] = {}
        self.free = asyncio.Event()

    async def append(self, changes: Sequence[Change]) -> list[Entry]:
        await self.free.wait()
        for change in changes:
            if change.item_id in self.fails:
                raise self.fails[change.item_id]
        self.groups.append([change.item_id for change in changes])
        return [Entry(Stamp(len(self.groups), i, "w"), change) for i, change in enumerate(changes)]


async def committed(journal: Journal, *groups: Sequence[str]) -> list[list[Entry] | BaseException]:
    """Commits some groups at the same time, and one before them."""
    commits = GroupCommit(journal.append)
    names = [["first"], *groups]
    tasks = []
    for group in names:
        tasks.append(asyncio.create_task(commits.commit([Tombstone(name) for name in group])))
        await asyncio.sleep(0)
    journal.free.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert commits.groups == len(journal.groups)
    return outcomes


def ids(entries: list[Entry] | BaseException) -> list[str]:
    assert isinstance(entries, list), entries
    return [entry.change.item_id for entry in entries]


def test_what_comes_during_a_write_is_the_next_one(loop: LoopThread) -> None:
    async def run() -> None:
        journal = Journal()
        outcomes = await committed(journal, ["a", "b"], ["c"], ["a"])
        assert [ids(outcome) for outcome in outcomes] == [["first"], ["a", "b"], ["c"], ["a"]]
        assert journal.groups == [["first"], ["a", "b", "c", "a"]]

    loop.run(run())


def test_a_group_has_an_end_but_nothing_is_too_large_for_one(loop: LoopThread) -> None:
    async def run() -> None:
        journal = Journal()
        await committed(journal, ["a"] * 200, ["b"] * 100, ["c"] * 300)
        assert [len(group) for group in journal.groups] == [1, 200, 100, 300]

    loop.run(run())


def test_one_that_is_at_fault_fails_alone(loop: LoopThread) -> None:
    async def run() -> None:
        journal = Journal()
        journal.fails["bad"] = ClockAhead("an hour")
        outcomes = await committed(journal, ["a"], ["bad", "b"], ["c"])
        assert outcomes[2] is journal.fails["bad"]
        assert [ids(outcomes[i]) for i in (0, 1, 3)] == [["first"], ["a"], ["c"]]
        assert journal.groups == [["first"], ["a"], ["c"]]

    loop.run(run())


def test_a_store_that_is_away_fails_all_at_once(loop: LoopThread) -> None:
    async def run() -> None:
        journal = Journal()
        journal.fails["a"] = OSError("no space left")
        outcomes = await committed(journal, ["a"], ["b"])
        assert outcomes[1:] == [journal.fails["a"]] * 2
        assert journal.groups == [["first"]]

    loop.run(run())


def test_who_stops_waiting_takes_nothing_back(loop: LoopThread) -> None:
    async def run() -> None:
        journal = Journal()
        commits = GroupCommit(journal.append)
        tasks = [asyncio.create_task(commits.commit([Tombstone(name)])) for name in "abc"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        journal.free.set()
        assert ids(await tasks[1]) == ["b"]
        assert sorted(name for group in journal.groups for name in group) == ["a", "b", "c"]
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        # And it goes on.
        assert ids(await commits.commit([Tombstone("d")])) == ["d"]

    loop.run(run())
