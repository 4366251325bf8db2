"""A circuit breaker: after failures in a row it lets nothing through for a while, then one call, to see."""

import enum
import time
from collections.abc import Callable


class State(enum.Enum):
    """CLOSED lets everything through, OPEN nothing, HALF_OPEN one call at a time until that has succeeded."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Whoever was let through says how it went: `succeeded`, `failed`, or `abandoned` where that tells nothing."""

    def __init__(self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """failures: in a row, that open it. seconds: for which it stays open."""
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._trying = False
        # How often it was opened, and how many calls it didn't let through.
        self.opened = 0
        self.refused = 0

    @property
    def state(self) -> State:
        """What it would do with a call now."""
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if self._clock() < self._open_until else State.HALF_OPEN

    def allow(self) -> bool:
        """Returns whether a call may be made; where it may, one of the three methods below must follow it."""
        state = self.state
        if state is State.OPEN or (state is State.HALF_OPEN and self._trying):
            self.refused += 1
            return False
        self._trying = state is State.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """Closes it: whatever failed before, calls succeed."""
        self._failures = 0
        self._open_until = None
        self._trying = False

    def failed(self) -> None:
        """Opens it after enough failures, and again after one while half open."""
        self._failures += 1
        was = self.state
        if was is State.HALF_OPEN or (was is State.CLOSED and self._failures >= self._most):
            self._open_until = self._clock() + self._seconds
            self._trying = False
            self.opened += was is State.CLOSED

    def abandoned(self) -> None:
        """Lets another call try where this one was to."""
        self._trying = False

    def try_again(self) -> None:
        """Lets a call through although the time isn't over: there is reason to hope."""
        if self._open_until is not None:
            self._open_until = self._clock()
