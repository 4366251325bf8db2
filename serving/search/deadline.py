"""How long a request may still take, whatever step it is at."""

import time

from serving.search import errors


class Deadline:
    """A moment on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        """Starts the clock; seconds: from now."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Returns the seconds left, above 0; raises DeadlineExceeded where there are none: nothing more is begun."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise errors.DeadlineExceeded("the deadline has passed.", begun=False)
        return left
