"""Upserts and deletes: made durable in the journal, then searched, then acknowledged."""

import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from serving.index import Embeddings
from serving.journal.clock import ClockAhead
from serving.journal.entry import Change, Entry, Tombstone, Upsert
from serving.journal.writer import JournalWriter
from serving.search import errors
from serving.search.changes import MAX_DELETES, MAX_UPSERTS, Changed, ItemDelete, ItemUpsert, check_count
from serving.search.deadline import Deadline
from serving.search.embedding import Embedder
from serving.search.following import Following
from serving.search.group_commit import GroupCommit
from serving.search.held import Held, Holding
from serving.search.workers import Workers

# Images of a batch that are decoded and encoded together: queries get their turn in between.
_CHUNK = 16


class Updates:
    """Takes changes of the collection. Belongs to an event loop.

    upserts, deletes: how many were acknowledged.
    """

    def __init__(
        self,
        held: Held,
        embedder: Embedder,
        workers: Workers,
        following: Following,
        writer: JournalWriter | None,
        *,
        in_flight: int,
        max_items: int,
        appended: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """embedder, workers: not those that queries wait for. writer: None takes no changes. in_flight: calls at once.

        max_items: upserted items that are taken between reindexes.
        appended: told how many seconds each write to the journal took.
        """
        self._held = held
        self._embedder = embedder
        self._workers = workers
        self._following = following
        self._writer = writer
        self._in_flight = in_flight
        self._at_work = 0
        self._max_items = max_items
        self._commits = GroupCommit(self._append)
        self.upserts = 0
        self.deletes = 0
        self._appended = appended

    async def upsert(self, item: ItemUpsert, deadline: Deadline) -> Changed:
        """Adds an item, or replaces the one with its id."""
        return _raised((await self.batch_upsert([item], deadline))[0])

    async def delete(self, item: ItemDelete, deadline: Deadline) -> Changed:
        """Takes an item out; succeeds also where there is none."""
        return _raised((await self.batch_delete([item], deadline))[0])

    async def batch_upsert(
        self, items: Sequence[ItemUpsert | Exception], deadline: Deadline
    ) -> list[Changed | Exception]:
        """Returns the outcome of each item; an exception in the place of one is its outcome.

        Raises, and has written nothing, UpdatesNotAllowed, UpdatesFull, NoRelease, Overloaded, DeadlineExceeded.
        """
        check_count(len(items), MAX_UPSERTS)
        with self._admitted(), self._held.take() as holding:
            self._check_room(len(items))
            outcomes: list[Changed | Exception] = []
            for start in range(0, len(items), _CHUNK):
                outcomes += await self._upsert(items[start : start + _CHUNK], holding, deadline)
            return outcomes

    async def batch_delete(
        self, items: Sequence[ItemDelete | Exception], deadline: Deadline
    ) -> list[Changed | Exception]:
        """As batch_upsert."""
        check_count(len(items), MAX_DELETES)
        with self._admitted(), self._held.take() as holding:
            changes = [item if isinstance(item, Exception) else Tombstone(item.item_id, item.purge) for item in items]
            outcomes = await self._commit(changes, holding, deadline)
            self.deletes += sum(isinstance(outcome, Changed) for outcome in outcomes)
            return outcomes

    async def _upsert(
        self, items: Sequence[ItemUpsert | Exception], holding: Holding, deadline: Deadline
    ) -> list[Changed | Exception]:
        changes: list[Change | Exception] = [item if isinstance(item, Exception) else _NOT_YET for item in items]
        wanted = {i: item for i, item in enumerate(items) if isinstance(item, ItemUpsert)}
        canonical = await self._embedder.decode([item.image for item in wanted.values()], deadline) if wanted else []
        images = {}
        for i, image in zip(wanted, canonical, strict=True):
            if isinstance(image, Exception):
                changes[i] = image
            else:
                images[i] = image
        embeddings = await self._embedder.encode(list(images.values()), holding, deadline) if images else []
        digest = holding.release.manifest.encoder.digest
        for (i, image), embedding in zip(images.items(), embeddings, strict=True):
            changes[i] = embedding if isinstance(embedding, Exception) else _change(wanted[i], image, embedding, digest)
        outcomes = await self._commit(changes, holding, deadline)
        self.upserts += sum(isinstance(outcome, Changed) for outcome in outcomes)
        return outcomes

    async def _commit(
        self, changes: Sequence[Change | Exception], holding: Holding, deadline: Deadline
    ) -> list[Changed | Exception]:
        outcomes: list[Changed | Exception] = [
            change if isinstance(change, Exception) else _NOT_YET for change in changes
        ]
        good = {i: change for i, change in enumerate(changes) if not isinstance(change, Exception)}
        if not good:
            return outcomes
        ids = [change.item_id for change in good.values()]
        known = await self._workers.run(holding.view.rows_of, ids, deadline=deadline, finally_=holding.retain().drop)
        deadline.left()
        try:
            entries = await self._commits.commit(list(good.values()))
        except ClockAhead as error:
            raise errors.ClockAhead(str(error)) from error
        except OSError as error:
            # What the store says may tell of its insides; it is in the log as the cause.
            text = f"the journal can't be written now ({type(error).__name__})."
            raise errors.StoreUnavailable(text) from error
        current = self._held.current
        release_id = holding.release_id if current is None else current.manifest.release_id
        for i, entry in zip(good, entries, strict=True):
            change = entry.change
            sha256 = change.sha256 if isinstance(change, Upsert) else ""
            outcomes[i] = Changed(entry.stamp, change.item_id in known, release_id, self._following.advised, sha256)
        return outcomes

    async def _append(self, changes: Sequence[Change]) -> list[Entry]:
        assert self._writer is not None, "nothing is taken without one"
        begun = time.perf_counter()
        entries = await self._following.run(self._write, changes)
        self._appended(time.perf_counter() - begun)
        await self._following.add(entries)
        return entries

    def _write(self, changes: Sequence[Change]) -> list[Entry]:
        assert self._writer is not None
        builder = self._following.current
        for change in changes:
            # Ours must be later than what the item has, whoever's clock that was by.
            stamp = None if builder is None else builder.stamp(change.item_id)
            if stamp is not None:
                self._writer.observe_stamp(change.item_id, stamp)
        return self._writer.append(changes)

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._writer is None:
            raise errors.UpdatesNotAllowed(
                "this gateway takes no updates: it has neither admin_tokens nor allow_updates."
            )
        if self._at_work >= self._in_flight:
            raise errors.Overloaded(f"{self._in_flight} updates are at work, which is the limit.")
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    def _check_room(self, more: int) -> None:
        builder = self._following.current
        held = 0 if builder is None else builder.count
        if held + more > self._max_items:
            raise errors.UpdatesFull(
                f"{held} items were upserted since the release was made, and {self._max_items} is the limit: reindex."
            )


_NOT_YET = RuntimeError("it has no outcome")


def _change(item: ItemUpsert, image: bytes, embedding: Embeddings, digest: str) -> Change | Exception:
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    sha256 = hashlib.sha256(image).hexdigest()
    if not 0 < float(np.linalg.norm(embedding.astype(np.float64))) < np.inf:
        return errors.EncoderFault("encoder's embedding is none: all of it is zero.")
    # Its own memory, and not that of a whole batch.
    values = np.array(embedding, np.float32)
    return Upsert(item.item_id, image, sha256, width, height, item.uri, item.attributes, values, digest)


def _raised(outcome: Changed | Exception) -> Changed:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
