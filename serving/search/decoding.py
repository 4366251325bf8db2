"""Makes query images canonical where that harms nobody: at once, in a thread, or in a process with limits."""

import asyncio
from collections.abc import Sequence

from serving.gateway.options import Decoding
from serving.images import DEFAULT_LIMITS, ImageError, ImageLimits, canonicalize_up_to
from serving.images.file_bytes import signature
from serving.images.pillow_warnings import without_warnings
from serving.search import errors
from serving.search.deadline import Deadline
from serving.search.decode_processes import DecodeProcesses
from serving.search.workers import Workers

# What takes no longer than a hand-over to a thread and back (measured: 0.1 ms) is done at once.
_TINY_BYTES = 16_384
_TINY_PIXELS = 16_384
_Canonical = bytes | Exception


class Decoder:
    """Decodes the images of requests. Belongs to an event loop."""

    def __init__(
        self, workers: Workers, limits: ImageLimits = DEFAULT_LIMITS, options: Decoding | None = None, queue: int = 16
    ) -> None:
        """queue: large images that may wait for a process."""
        options = options or Decoding()
        self._workers = workers
        self._limits = limits
        self._small_pixels = options.small_pixels
        self.processes = DecodeProcesses(
            workers.threads,
            queue,
            limits,
            memory_bytes=options.decode_memory_bytes,
            seconds=options.decode_seconds,
        )

    async def canonical(self, images: Sequence[bytes], deadline: Deadline) -> list[_Canonical]:
        """Returns the canonical image of each file, or InvalidQuery.

        Raises Overloaded and DeadlineExceeded, for all of them.
        """
        tiny = self._tiny(images[0]) if len(images) == 1 else None
        canonical: list[_Canonical | None] = [tiny] if tiny is not None else [None] * len(images)
        left = [i for i, done in enumerate(canonical) if done is None]
        # As many jobs as threads: one for each image would fill the queue that all requests share.
        jobs = min(len(left), self._workers.threads)
        parts = [left[job::jobs] for job in range(jobs)]
        found = await asyncio.gather(
            *(self._workers.run(self._small, [images[i] for i in part], deadline, deadline=deadline) for part in parts)
        )
        for part, outcomes in zip(parts, found, strict=True):
            for i, outcome in zip(part, outcomes, strict=True):
                canonical[i] = outcome if outcome is not None else await self._large(images[i], deadline)
        return [outcome for outcome in canonical if outcome is not None]

    def _tiny(self, image: bytes) -> _Canonical | None:
        if len(image) > _TINY_BYTES:
            return None
        return self._up_to(_TINY_PIXELS, image)

    def _small(self, images: Sequence[bytes], deadline: Deadline) -> list[_Canonical | None]:
        outcomes = []
        # Once for all of them: each by itself would take a twentieth of a small image's time.
        with without_warnings():
            for image in images:
                deadline.left()
                outcomes.append(self._up_to(self._small_pixels, image))
        return outcomes

    async def _large(self, image: bytes, deadline: Deadline) -> _Canonical:
        try:
            return await self.processes.canonicalize(image, deadline)
        except ImageError as error:
            return _refused(error)

    def _up_to(self, pixels: int, image: bytes) -> _Canonical | None:
        """Returns the canonical image; None where it costs more than so many pixels, or is not for this process."""
        # libtiff writes to stderr what it finds in damaged files, and has had more holes than the others.
        if signature(image) == "TIFF":
            return None
        try:
            canonical = canonicalize_up_to(pixels, image, self._limits)
            return None if canonical is None else canonical.data
        except ImageError as error:
            return _refused(error)


def _refused(error: ImageError) -> Exception:
    return errors.InvalidQuery("image", str(error))
