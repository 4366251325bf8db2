"""So many a second, and no more."""

import time
from collections.abc import Callable


class Rate:
    """A bucket of tokens that fills up: `allow` takes one."""

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """a_second: how many are allowed; as many at once."""
        self._a_second = a_second
        self._clock = clock
        self._left = a_second
        self._at = clock()
        self._refused = 0

    def allow(self) -> bool:
        """Returns whether there is one left."""
        now = self._clock()
        self._left = min(self._a_second, self._left + (now - self._at) * self._a_second)
        self._at = now
        if self._left < 1:
            self._refused += 1
            return False
        self._left -= 1
        return True

    def take_refused(self) -> int:
        """Returns how many were not allowed since this was last asked."""
        refused, self._refused = self._refused, 0
        return refused
