"""Work that must not take the processors from those who are waiting for an answer."""

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_NICE = 10


def at_low_priority(function: Callable[[], T]) -> T:
    """Returns what `function` returns, or raises what it raises: run in a thread of low priority, on Linux nice 10."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        # To Linux each thread is a process of its own in this; elsewhere there is nothing of the kind.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    # A new one each time: only root may raise a priority again.
    thread = threading.Thread(target=run, name="low-priority", daemon=True)
    thread.start()
    return result.result()
