"""Follows the journal: what anybody upserted or deleted is searched beside every release that is held."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from serving.index import Embeddings
from serving.journal.entry import Entry, Upsert
from serving.journal.reader import JournalReader
from serving.release.items import Item
from serving.search import errors
from serving.search.encoder import Encoder
from serving.search.held import Held, Holding
from serving.search.overlay_builder import OverlayBuilder
from serving.search.searcher import Searcher
from serving.storage import Store

T = TypeVar("T")
_BATCH = 64  # images that are embedded in one call
_ENCODE_SECONDS = 30.0
_THREADS = 4
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A release with its overlay, ready to be served. reader: has read all that is in the overlay."""

    builder: OverlayBuilder[Any]
    reader: JournalReader


class Following:
    """Keeps the overlays of the held releases at what the journal says. Belongs to an event loop.

    seen: the moment, on the monotonic clock, when the journal was last read; None before the first time.
    """

    def __init__(
        self, store: Store, held: Held, encoder: Encoder, render: Callable[[Item], Any], *, advise_items: int
    ) -> None:
        """encoder: for what the journal holds no embedding of by the release's encoder. render: see OverlayBuilder.

        advise_items: upserted and hidden items from which on a reindex is advised.
        """
        self._store = store
        self._held = held
        self._encoder = encoder
        self._render = render
        self._builders: list[OverlayBuilder[Any]] = []
        self._reader: JournalReader | None = None
        # The upserts that the current release's encoder has yet to embed.
        self._waiting: dict[str, Entry] = {}
        self._reading = asyncio.Lock()
        # Held while a release takes over, so that it misses nothing, and while entries are taken in.
        self._adding = asyncio.Lock()
        self._embedding = asyncio.Lock()
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="journal")
        self._advise_items = advise_items
        self._advised = False
        self._said = ""
        self.seen: float | None = None

    @property
    def current(self) -> OverlayBuilder[Any] | None:
        """What makes the overlay of the current release."""
        release = self._held.current
        return next((builder for builder in self._builders if builder.searcher.release is release), None)

    @property
    def advised(self) -> bool:
        """Whether so much was changed beside the served release that it is time for a reindex."""
        builder = self.current
        return builder is not None and builder.count + builder.hidden >= self._advise_items

    @property
    def damaged(self) -> int:
        """How many writers' segments can't be read."""
        return 0 if self._reader is None else len(self._reader.damaged)

    async def load(self, searcher: Searcher[Any]) -> Loaded:
        """Returns a release with the overlay that it needs, embedded by its encoder; it is not served meanwhile.

        Raises OSError where the journal can't be read, and what Encoder.encode does.
        """
        watermark = searcher.release.manifest.watermark
        known = next((builder for builder in self._builders if builder.searcher is searcher), None)
        reader = JournalReader(self._store, watermark)
        segments = reader.read()
        builder = known or OverlayBuilder(searcher, self._render)
        # One that is kept has all of it; but as long as it was not served nobody embedded for it.
        while (known is None or known.missing) and (segment := await self.run(next, segments, None)) is not None:
            entries = segment[2]
            if known is None:
                missing = await self.run(builder.add, entries)
            else:
                missing = [entry for entry in entries if known.wants(entry)]
            await self._embed(builder, missing)
        return Loaded(builder, reader if known is None or self._reader is None else self._reader)

    @contextlib.asynccontextmanager
    async def taking_over(self, loaded: Loaded) -> AsyncIterator[None]:
        """Brings a loaded release up to date, and stops the world around the flip: what comes next is for both."""
        async with self._reading, self._adding:
            entries = []
            for reader in {id(reader): reader for reader in (loaded.reader, self._reader) if reader}.values():
                entries += await self.run(reader.poll)
            await self._spread(entries)
            await self.run(loaded.builder.add, entries)
            await self._embed(loaded.builder, [entry for entry in entries if loaded.builder.wants(entry)])
            yield
            self._reader = loaded.reader
            self._waiting.clear()
            self._builders = [loaded.builder, *(b for b in self._builders if b is not loaded.builder)]
            self._forget()
            self.seen = time.monotonic()
        self._advise()

    async def run_forever(self, poll_seconds: float) -> None:
        """Polls until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(poll_seconds)

    async def poll(self) -> None:
        """Looks once for what others have written. Raises nothing."""
        try:
            self._forget()
            async with self._reading:
                if self._reader is None:
                    return
                entries = await self.run(self._reader.poll)
                self.seen = time.monotonic()
                await self._take_in(entries)
            await self._embed_waiting()
            self._said = ""
        except (OSError, errors.RetrievalError) as error:
            self._say(f"can't follow the journal now: {error}")
        except Exception as error:
            self._say(f"following the journal failed unexpectedly: {error!r}", error)

    async def add(self, entries: Sequence[Entry]) -> None:
        """Takes in entries that this process has written. Raises nothing: they are written, and `poll` finds them."""
        try:
            await self._take_in(entries)
            await self._embed_waiting()
        except Exception as error:
            self._say(f"an update is kept, but not searched yet: {error!r}", error)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Returns `function(*arguments)`, run in a thread."""
        return await asyncio.wrap_future(self._pool.submit(function, *arguments))

    async def close(self) -> None:
        """Waits for what is under way."""
        await asyncio.to_thread(self._pool.shutdown)

    async def _take_in(self, entries: Sequence[Entry]) -> None:
        if entries:
            async with self._adding:
                await self._spread(entries)
            self._advise()

    async def _spread(self, entries: Sequence[Entry]) -> None:
        self._forget()
        holdings = self._held.take_all()
        # Each is dropped by the thread that works on it, which ends also where nobody waits for it any more.
        pending = []
        for holding in holdings:
            pending.append(self._pool.submit(self._add_to, holding, entries))
            pending[-1].add_done_callback(functools.partial(_drop, holding))
        for place, job in enumerate(pending):
            missing = await asyncio.wrap_future(job)
            if place == 0:
                for entry in entries:
                    # What was waiting and has been changed since is no longer wanted.
                    self._waiting.pop(entry.change.item_id, None)
                self._waiting.update((entry.change.item_id, entry) for entry in missing)

    def _forget(self) -> None:
        """Lets go of what is held no longer."""
        held = [self._held.current, *self._held.kept]
        self._builders = [builder for builder in self._builders if builder.searcher.release in held]

    def _add_to(self, holding: Holding, entries: Sequence[Entry]) -> list[Entry]:
        builder = next((builder for builder in self._builders if builder.searcher is holding.searcher), None)
        return [] if builder is None else builder.add(entries)

    async def _embed_waiting(self) -> None:
        if not self._waiting:
            return
        async with self._embedding:
            builder = self.current
            if builder is None:
                return
            with self._held.take() as holding:
                if holding.searcher is not builder.searcher:
                    return
                waiting = [entry for entry in self._waiting.values() if builder.wants(entry)]
                await self._embed(builder, waiting)
            for entry in waiting:
                if self._waiting.get(entry.change.item_id) is entry:
                    del self._waiting[entry.change.item_id]

    async def _embed(self, builder: OverlayBuilder[Any], entries: Sequence[Entry]) -> None:
        """Embeds entries by the encoder of the builder's release. What the encoder rejects stays missing."""
        encoder = builder.searcher.release.manifest.encoder
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            images = [entry.change.image for entry in batch if isinstance(entry.change, Upsert)]
            found: dict[int, Embeddings] = {}
            try:
                embeddings = await self._encoder.encode(
                    images, model=encoder.model, version=encoder.version, timeout=_ENCODE_SECONDS
                )
                found = dict(enumerate(embeddings))
            except errors.ImagesRejected as error:
                for place, reason in error.reasons.items():
                    name = batch[place].change.item_id
                    _log.error("encoder %s/%d rejects upserted item %r: %s", *_name(encoder), name, reason)
                found = {i: row for i, row in enumerate(error.embeddings) if i not in error.reasons and len(row)}
            await self.run(builder.embed, batch, found)

    def _advise(self) -> None:
        advised, before = self.advised, self._advised
        self._advised = advised
        builder = self.current
        if advised and not before and builder is not None:
            count = builder.count, builder.hidden
            _log.warning("%d upserted items beside the release and %d hidden in it: it is time to reindex", *count)

    def _say(self, text: str, unexpected: Exception | None = None) -> None:
        # Once per state, not once per poll.
        if text != self._said:
            self._said = text
            _log.warning("%s", text, exc_info=unexpected)


class NotFollowing(Following):
    """Where no shard is loaded nothing is searched beside it either: reads no journal."""

    async def load(self, searcher: Searcher[Any]) -> Loaded:
        """See Following."""
        watermark = searcher.release.manifest.watermark
        return Loaded(OverlayBuilder(searcher, self._render), JournalReader(self._store, watermark))

    @contextlib.asynccontextmanager
    async def taking_over(self, loaded: Loaded) -> AsyncIterator[None]:
        """See Following."""
        yield

    async def poll(self) -> None:
        """See Following."""


def _drop(holding: Holding, job: Any) -> None:
    holding.drop()


def _name(encoder: Any) -> tuple[str, int]:
    return encoder.model, encoder.version
