"""Threads for what would block the event loop: as many as asked for, and a queue with an end."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from serving.search import errors
from serving.search.deadline import Deadline

T = TypeVar("T")


class Workers:
    """A thread pool that refuses work rather than let it wait too long. threads, queue: at least 1 and 0."""

    def __init__(self, threads: int, queue: int) -> None:
        self.threads = threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self._capacity = threads + queue
        self._free = threading.BoundedSemaphore(self._capacity)

    async def run(
        self,
        function: Callable[..., T],
        *arguments: Any,
        deadline: Deadline,
        finally_: Callable[[], None] = lambda: None,
    ) -> T:
        """Returns `function(*arguments)`, run in a thread, or raises what it raises.

        finally_: called once, in whatever thread, when the function has returned or will never be begun. The caller
        may have given up long before: a thread can't be stopped. Raises Overloaded, DeadlineExceeded.
        """
        if not self._free.acquire(blocking=False):
            finally_()
            raise errors.Overloaded(f"{self._capacity} requests are waiting or at work, which is the limit.")
        job = self._pool.submit(_unless_late, deadline, function, *arguments)
        job.add_done_callback(lambda _: self._free.release())
        job.add_done_callback(lambda _: finally_())
        future = asyncio.wrap_future(job)
        try:
            await asyncio.wait({future}, timeout=deadline.left())
            if not future.done():
                raise errors.DeadlineExceeded("the deadline passed while the gateway was working.")
            return future.result()
        finally:
            # Also where the client has gone away: what has not begun is not started.
            future.cancel()

    def close(self) -> None:
        """Refuses new work and drops what has not begun; doesn't wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _unless_late(deadline: Deadline, function: Callable[..., T], *arguments: Any) -> T:
    deadline.left()
    return function(*arguments)
