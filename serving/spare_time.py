"""Work that must not be felt: it takes only the processor time that nobody else wants."""

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def take_only_spare_time(thread: int = 0) -> None:
    """Lets the calling thread, and what it starts from now on, run only where a processor has nothing else to do.

    thread: another one, by its number in the system: a process that has just begun, by that of the process.

    Where Linux can't be told so (or this isn't Linux) nothing changes. There is no way back without privileges: the
    thread must be one that was started for this work. It should hardly hold what somebody waits for, such as Python's
    lock: on a busy machine that would then wait for this thread to get a processor.

    A low priority (`nice`) doesn't do: Linux lets two that are urgent share one processor while the other one has only
    such a thread, and whoever wakes up waits until its turn is over, up to 4 ms. An idle thread's processor is taken to
    be free, at once. Measured on 2 cores that queries kept half busy: their p99 went from 7 ms to 20 ms beside a thread
    that always works at nice 19, and to 8 ms beside two idle ones.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


class SpareTime:
    """Runs functions in a thread that takes only spare time, until patience ends; then in the caller's own.

    A machine that is always busy has no spare time, and the work must be done some day. A context manager.
    """

    def __init__(self, seconds: float) -> None:
        """seconds: of patience, with all that is run together; 0 for none at all."""
        self._end = time.monotonic() + seconds
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "spare-time", take_only_spare_time)

    def run(self, function: Callable[[], T], discard: Callable[[T], None] = lambda _: None) -> T:
        """Returns what a function returns, or raises what it raises.

        discard: called with what came of a call that took too long: it can't be stopped, and another one was made.
        """
        left = self._end - time.monotonic()
        if left > 0:
            call = self._pool.submit(function)
            if concurrent.futures.wait((call,), left).done:
                return call.result()
            call.add_done_callback(lambda late: None if late.exception() else discard(late.result()))
        return function()

    def __enter__(self) -> "SpareTime":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False)
