"""Processes that decode what is too large for a thread: one image at a time each, killed when it takes too long."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import sys

from serving.images import ImageError, ImageLimits
from serving.images.process import GOOD, LENGTH
from serving.search import errors
from serving.search.deadline import Deadline

_log = logging.getLogger(__name__)


class DecodeProcesses:
    """Starts processes when they are needed. Belongs to an event loop."""

    def __init__(self, count: int, queue: int, limits: ImageLimits, *, memory_bytes: int, seconds: float) -> None:
        """count: processes at most. queue: images that may wait for one. memory_bytes, seconds: for one image."""
        self._capacity = count + queue
        self._waiting = 0
        self._free = asyncio.Semaphore(count)
        self._seconds = seconds
        self._options = json.dumps({"memory_bytes": memory_bytes, **dataclasses.asdict(limits)})
        self._idle: list[asyncio.subprocess.Process] = []
        self._all: set[asyncio.subprocess.Process] = set()
        # How many images took too long or were the end of their process.
        self.killed = 0

    async def canonicalize(self, data: bytes, deadline: Deadline) -> bytes:
        """Returns the canonical image of a file.

        Raises ImageError, also where the image takes too long or too much memory, Overloaded, DeadlineExceeded.
        """
        if self._waiting >= self._capacity:
            raise errors.Overloaded(f"{self._capacity} large images are waiting or being decoded, which is the limit.")
        self._waiting += 1
        try:
            async with await self._turn(deadline):
                return await self._decoded(data, deadline)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Ends the processes."""
        for process in list(self._all):
            self._kill(process)
        self._idle.clear()

    async def _turn(self, deadline: Deadline) -> "contextlib.AsyncExitStack":
        try:
            await asyncio.wait_for(self._free.acquire(), deadline.left())
        except asyncio.TimeoutError:
            text = "the deadline passed while a large image waited for its turn to be decoded."
            raise errors.DeadlineExceeded(text, begun=False) from None
        stack = contextlib.AsyncExitStack()
        stack.callback(self._free.release)
        return stack

    async def _decoded(self, data: bytes, deadline: Deadline) -> bytes:
        left = deadline.left()
        process = self._idle.pop() if self._idle else await self._started()
        healthy = False
        try:
            kind, answer = await asyncio.wait_for(self._asked(process, data), min(left, self._seconds))
            healthy = True
        except asyncio.TimeoutError:
            if left < self._seconds:
                raise errors.DeadlineExceeded("the deadline passed while a large image was decoded.") from None
            self.killed += 1
            raise ImageError("too-many-pixels", f"the image takes more than {self._seconds:g} s to decode.") from None
        except (EOFError, ConnectionError):
            self.killed += 1
            code = await process.wait()
            _log.warning("an image of %d bytes was the end of the process that decoded it: %s", len(data), code)
            raise ImageError("corrupt", "the image can't be decoded.") from None
        finally:
            # Also where the client has gone away: a process in the midst of an image can't take another one.
            self._idle.append(process) if healthy else self._kill(process)
        if kind == GOOD:
            return answer
        reason, _, text = answer.decode().partition("\n")
        raise ImageError(reason, text)

    async def _asked(self, process: asyncio.subprocess.Process, data: bytes) -> tuple[bytes, bytes]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(LENGTH.pack(len(data)) + data)
        await process.stdin.drain()
        kind = await process.stdout.readexactly(1)
        (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        return kind, await process.stdout.readexactly(length)

    async def _started(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serving.images.process", self._options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # It holds nothing of ours but what it needs to run, and no threads that it doesn't.
            env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
            | {"OPENBLAS_NUM_THREADS": "1"},
        )
        self._all.add(process)
        return process

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        self._all.discard(process)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
