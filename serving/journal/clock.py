"""The order of changes: a hybrid logical clock, near the time of day and never behind what it has seen.

Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks" (OPODIS 2014), figure 5.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# How far ahead of this machine's clock another may be. Machines that keep their time by NTP differ by far less; a stamp
# beyond it comes from a clock that is wrong, and to follow it would make every later stamp as wrong.
MAX_AHEAD_MILLISECONDS = 60_000


class Stamp(NamedTuple):
    """When a change was made. The order of stamps is that of changes, and no two changes have the same.

    milliseconds: since the epoch. count: among those of one millisecond. writer: its id, which decides between equals.
    """

    milliseconds: int
    count: int  # type: ignore[assignment]  # the paper's `c`; tuple.count is of no use here
    writer: str


class ClockAhead(ValueError):
    """A stamp from further in the future than clocks may differ."""


def wall_milliseconds() -> int:
    """Returns the time of day, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class HybridClock:
    """The stamps of one writer. Every method may be called from any number of threads."""

    def __init__(self, writer: str, wall: Callable[[], int] = wall_milliseconds) -> None:
        """wall: milliseconds since the epoch; it may stand still or go back."""
        self._writer = writer
        self._wall = wall
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._count = 0

    def now(self) -> Stamp:
        """Returns a stamp that is later than every one that was returned or observed before."""
        with self._lock:
            wall = self._wall()
            if wall > self._milliseconds:
                self._milliseconds, self._count = wall, 0
            else:
                self._count += 1
            return Stamp(self._milliseconds, self._count, self._writer)

    def observe(self, stamp: Stamp) -> None:
        """Takes note of another's stamp: all of ours from now on are later.

        Raises:
          ClockAhead: it is more than MAX_AHEAD_MILLISECONDS in the future; it was not taken note of.
        """
        with self._lock:
            ahead = stamp.milliseconds - self._wall()
            if ahead > MAX_AHEAD_MILLISECONDS:
                raise ClockAhead(
                    f"the clock of writer {stamp.writer} is {ahead / 1000:.3f} s ahead of ours, "
                    f"at most {MAX_AHEAD_MILLISECONDS / 1000:g} s are believed."
                )
            if stamp[:2] > (self._milliseconds, self._count):
                self._milliseconds, self._count = stamp[:2]
