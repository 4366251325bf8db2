"""Follows `CURRENT`: loads the release it names beside the one that is served, verifies and warms it, then flips."""

import asyncio
import collections
import contextlib
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from serving.gateway.examination import Examined, Examiner
from serving.release import layout
from serving.release.current import read_current
from serving.release.reader import Release, check_encoder, open_release
from serving.release.share import WHOLE, Share
from serving.release.verify import ReleaseRefused
from serving.search import errors
from serving.search.encoder import Embeddings, Encoder
from serving.search.following import Following
from serving.search.held import Held
from serving.search.searcher import Searcher
from serving.storage import Store

# For the probe through the live encoder: a few images.
_PROBE_SECONDS = 30.0
# Until something is served: what is waited for may be there at any moment, and clients have nothing meanwhile.
_FIRST_POLL_SECONDS = 0.25
T = TypeVar("T")
_log = logging.getLogger(__name__)
_THREAD = "watcher"


class Watcher:
    """Keeps `held` at what `CURRENT` names, wherever it moves: forward, or back to an older release.

    A permanent fault refuses a release for as long as this process lives, with a reason in the log. A passing one is
    tried again at the next poll. Either way the served release goes on.
    """

    def __init__(
        self,
        store: Store,
        held: Held,
        encoder: Encoder,
        prepare: Callable[[Release], Searcher[Any]],
        following: Following,
        *,
        cache: pathlib.Path | None,
        share: Share | None = WHOLE,
        check_time: Callable[[Release, Release | None], Awaitable[None]] | None = None,
        examiner: Examiner | None = None,
    ) -> None:
        """prepare: makes of a release what answers from it. following: brings in what was changed beside it.

        cache: for releases of an object store. share: the shards to load, None for none. check_time: raises
        RetrievalError where it is too early for a release to take over from the one that is served. examiner: looks at
        a release while another one is served; without it this process does, and those who ask feel it.
        """
        self._store = store
        self._held = held
        self._encoder = encoder
        self._prepare = prepare
        self._following = following
        self._cache = cache
        self._share = share
        self._check_time = check_time
        self._examiner = examiner
        self._examined: Examined | None = None
        # Opened and verified but for the encoder; kept, because that costs a read of every byte.
        self._candidate: Release | None = None
        self._said = ""
        # What CURRENT named when it was last read; what must not be served, with the reason; and how often for what.
        self.wanted = ""
        self.refused: dict[str, str] = {}
        self.faults: collections.Counter[str] = collections.Counter()

    async def run(self, poll_seconds: float, on_flip: Callable[[], Awaitable[None]]) -> None:
        """Polls until cancelled; awaits `on_flip` after each flip."""
        while True:
            if await self.poll():
                await on_flip()
            await asyncio.sleep(min(poll_seconds, _FIRST_POLL_SECONDS) if self._held.current is None else poll_seconds)

    async def poll(self) -> bool:
        """Looks once; returns whether the served release has changed. Raises nothing: a watcher must not die."""
        wanted = ""
        self._held.expire()
        try:
            self.wanted = wanted = await _in_thread(self._read_current)
            if not wanted:
                self._say(f"{self._store.uri} holds no {layout.CURRENT} yet, {self._meanwhile()}")
            elif not self._is_held(wanted) and wanted not in self.refused:
                return await self._load(wanted)
        except ReleaseRefused as error:
            self.refused[wanted] = str(error)
            self.faults[error.fault] += 1
            self._forget()
            _log.error("release %s is refused, %s: %s", wanted, self._meanwhile(), error)
        except (OSError, errors.RetrievalError) as error:
            self._say(f"can't load release {wanted or 'that CURRENT names'} yet, {self._meanwhile()}: {error}")
        except Exception as error:
            self._say(f"loading release {wanted} failed unexpectedly, {self._meanwhile()}: {error!r}", error)
        return False

    def close(self) -> None:
        """Closes what was opened and not flipped to."""
        if self._examiner is not None:
            self._examiner.close()
        self._forget()

    def _read_current(self) -> str:
        try:
            return read_current(self._store) or ""
        except ValueError as error:
            # Whoever wrote it may write it again.
            raise OSError(f"{layout.CURRENT} does not name a release: {error}") from error

    def _is_held(self, release_id: str) -> bool:
        current = self._held.current
        return current is not None and current.manifest.release_id == release_id

    async def _load(self, wanted: str) -> bool:
        if self._candidate is not None and self._candidate.manifest.release_id != wanted:
            self._forget()
        with contextlib.suppress(errors.ReleaseNotHeld, errors.NoRelease), self._held.take(wanted) as kept:
            await self._check_encoder(kept.release)
            await self._check(kept.release)
            async with self._following.taking_over(await self._following.load(kept.searcher)):
                flipped = self._held.flip_back(wanted)
            if flipped:
                self._served(kept.release, " again")
                return True
        if self._candidate is None:
            self._candidate = await self._opened(wanted)
        release = self._candidate
        await self._check_encoder(release)
        await self._check(release)
        searcher = self._prepare(release)
        await _in_thread(lambda: self._warm(searcher))
        async with self._following.taking_over(await self._following.load(searcher)):
            self._candidate = self._examined = None
            self._held.flip(searcher)
        self._served(release, "")
        return True

    async def _opened(self, wanted: str) -> Release:
        def opened() -> Release:
            examined = None
            # Where nothing is served nobody waits for this process, and it is sooner done.
            if self._examiner is not None and self._held.current is not None:
                with self._held.take() as served:
                    examined = self._examiner.examine(wanted, served.searcher)
            self._examined = examined
            checked = None if examined is None else examined.checked
            return open_release(self._store, wanted, cache=self._cache, share=self._share, checked=checked)

        return await _in_thread(opened)

    def _warm(self, searcher: Searcher[Any]) -> None:
        if self._examiner is not None and self._examined is not None:
            self._examiner.prepare(searcher, self._examined)
        searcher.warm()

    def _served(self, release: Release, again: str) -> None:
        self._said = ""
        name, encoder, count = release.manifest.release_id, release.manifest.encoder, release.manifest.index.count
        _log.info("serving release %s%s: %d items, encoder %s/%d", name, again, count, encoder.model, encoder.version)

    async def _check(self, release: Release) -> None:
        if self._check_time is not None:
            await self._check_time(release, self._held.current)

    async def _check_encoder(self, release: Release) -> None:
        encode = self._encode_from_thread(release)
        await _in_thread(lambda: check_encoder(release, encode))
        wanted = release.manifest.encoder
        if not await self._encoder.available(model=wanted.model, version=wanted.version, timeout=_PROBE_SECONDS):
            # One of several servers has answered, and another one would not.
            raise errors.EncoderUnavailable(
                f"version {wanted.version} of encoder {wanted.model} is not loaded everywhere."
            )

    def _encode_from_thread(self, release: Release) -> Callable[[Sequence[bytes]], Embeddings]:
        loop = asyncio.get_running_loop()
        encoder = release.manifest.encoder

        def encode(images: Sequence[bytes]) -> Embeddings:
            asked = self._encoder.encode(
                list(images), model=encoder.model, version=encoder.version, timeout=_PROBE_SECONDS
            )
            return asyncio.run_coroutine_threadsafe(asked, loop).result()

        return encode

    def _forget(self) -> None:
        candidate, self._candidate = self._candidate, None
        self._examined = None
        if candidate is not None:
            candidate.close()

    def _meanwhile(self) -> str:
        current = self._held.current
        return "nothing is served" if current is None else f"release {current.manifest.release_id} goes on"

    def _say(self, text: str, unexpected: Exception | None = None) -> None:
        # Once per state, not once per poll.
        if text != self._said:
            self._said = text
            _log.warning("%s", text, exc_info=unexpected)


async def _in_thread(function: Callable[[], T]) -> T:
    """Returns what `function` returns, run in a thread that nobody waits for at exit.

    Opening a release may take minutes, and a process that was told to stop must not wait for it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            setter(value)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            call: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
        else:
            call = (future.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *call)

    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    return await future


def leave_at_once_if_opening() -> None:
    """Ends the process, successfully, where one of its threads still opens a release. Called last.

    At Python's own end such a thread is stopped where it next asks for Python's lock, and when C++ has called for it
    (ScaNN loads an index) this aborts the process.
    """
    if any(thread.name == _THREAD for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
