"""Threads that a worker keeps busy, or none."""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

# More batches at a time cost memory, and TensorFlow divides each over the cores anyway.
_MOST = 8


class Inline(concurrent.futures.Executor):
    """Does at once, in the caller's thread, what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        """Returns a future that is done."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def crew_size(threads: int) -> int:
    """Returns how many threads a crew has. threads: at most so many, 0 for as many as there are cores."""
    return min(threads or os.cpu_count() or 1, _MOST)


def open_crew(threads: int) -> concurrent.futures.Executor:
    """Returns an executor of `crew_size(threads)` threads; of one, the caller's own."""
    size = crew_size(threads)
    return Inline() if size == 1 else concurrent.futures.ThreadPoolExecutor(size)
