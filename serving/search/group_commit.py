"""Changes that are made at the same time are written together: a write takes as long for many as for one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from serving.journal.entry import Change, Entry

_MOST_CHANGES = 256


class _Waiting(NamedTuple):
    changes: Sequence[Change]
    entries: "asyncio.Future[list[Entry]]"


class GroupCommit:
    """Belongs to an event loop. What comes while a write is under way is the next write.

    groups: how many were written.
    """

    def __init__(self, append: Callable[[Sequence[Change]], Awaitable[list[Entry]]]) -> None:
        """append: writes changes and returns their entries; only one at a time is under way."""
        self._append = append
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self.groups = 0

    async def commit(self, changes: Sequence[Change]) -> list[Entry]:
        """Returns the entries of changes that are written, or raises what `append` does.

        Whoever stops waiting takes nothing back: what has been handed in is written.
        """
        waiting = _Waiting(changes, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._write())
        return await waiting.entries

    async def _write(self) -> None:
        try:
            while self._waiting:
                group = self._next()
                try:
                    await self._write_group(group)
                except Exception as error:
                    if len(group) == 1 or isinstance(error, OSError):
                        for waiting in group:
                            _settle(waiting, error)
                        continue
                    # The store is well: it is the fault of one of them.
                    for waiting in group:
                        try:
                            await self._write_group([waiting])
                        except Exception as own:
                            _settle(waiting, own)
        finally:
            self._task = None

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        entries = await self._append([change for waiting in group for change in waiting.changes])
        self.groups += 1
        start = 0
        for waiting in group:
            _settle(waiting, entries[start : start + len(waiting.changes)])
            start += len(waiting.changes)

    def _next(self) -> list[_Waiting]:
        count = 0
        group: list[_Waiting] = []
        while self._waiting and (not group or count + len(self._waiting[0].changes) <= _MOST_CHANGES):
            group.append(self._waiting.pop(0))
            count += len(group[-1].changes)
        return group


def _settle(waiting: _Waiting, outcome: list[Entry] | Exception) -> None:
    if waiting.entries.done():
        return
    if isinstance(outcome, Exception):
        waiting.entries.set_exception(outcome)
    else:
        waiting.entries.set_result(outcome)
