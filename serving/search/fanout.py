"""A root's leaves: each is asked at the same time, and one that fails or is late is left out of the answer."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from serving.release import layout
from serving.release.manifest import Manifest
from serving.release.release import Release
from serving.search import errors
from serving.search.changes import Changed, ItemDelete, ItemUpsert
from serving.search.deadline import Deadline
from serving.search.leaf import Leaf, LeafItem, LeafQuery, LeafResult
from serving.search.replicated_leaf import ReplicatedLeaf

T = TypeVar("T")
V = TypeVar("V")
C = TypeVar("C", ItemUpsert, ItemDelete)
# What the root itself needs of a request's time, after its leaves: to merge, and to say what is missing.
MARGIN_SECONDS = 0.02
MARGIN_SHARE = 0.1
# If no leaf answered and all of them for one of these, it is what the client is told.
_TOLD = (errors.Overloaded, errors.ReleaseNotHeld, errors.DeadlineExceeded)
_log = logging.getLogger(__name__)


class Gathered(NamedTuple):
    """What leaves found. results: of each leaf that answered, one for each query. coverage: in (0, 1]."""

    results: list[list[LeafResult]]
    coverage: float


class FanOut:
    """Belongs to an event loop. leaves: one for each share, in their order."""

    def __init__(
        self,
        leaves: Sequence[ReplicatedLeaf],
        *,
        seconds: float,
        min_coverage: float,
        covered: Callable[[float], None] = lambda coverage: None,
    ) -> None:
        """seconds: the longest that a leaf may take. min_coverage: below it there is no answer, in (0, 1].

        covered: told the coverage of each search, 0 where no leaf answered.
        """
        self.leaves = leaves
        self._covered = covered
        self._seconds = seconds
        self.min_coverage = min_coverage

    async def search(self, queries: Sequence[LeafQuery], manifest: Manifest, deadline: Deadline) -> Gathered:
        """Returns what the leaves find in a release.

        Raises CoverageTooLow, ReleaseNotHeld, Overloaded, DeadlineExceeded.
        """
        release_id = manifest.release_id

        def ask(leaf: Leaf, timeout: float) -> Awaitable[list[LeafResult]]:
            return leaf.search(queries, release_id=release_id, timeout=timeout)

        # One query takes about as long as another; so many are no measure.
        hedged = len(queries) == 1 and queries[0].plain
        asked = [leaf for leaf in self.leaves if leaf.share.shards(len(manifest.index.shards))]
        outcomes = await self._ask_each(asked, ask, release_id, deadline, hedged=hedged)
        answered = {leaf: outcome for leaf, outcome in outcomes.items() if not isinstance(outcome, Exception)}
        # Shards may be empty, and every bit of a sum of others must not matter.
        coverage = 1.0 if len(answered) == len(asked) else _coverage(list(answered), manifest)
        self._covered(coverage)
        if not answered or coverage < self.min_coverage:
            raise _too_low(coverage, self.min_coverage, outcomes)
        return Gathered(list(answered.values()), coverage)

    async def items(
        self, item_ids: Sequence[str], manifest: Manifest, deadline: Deadline, *, thumbnails: bool, embeddings: bool
    ) -> list[LeafItem | Exception | None]:
        """Returns items by id, None for one that there is none of, or why the leaf that would have it doesn't say.

        Raises DeadlineExceeded.
        """
        release_id = manifest.release_id

        def ask(leaf: Leaf, names: list[str], timeout: float) -> Awaitable[list[LeafItem | None]]:
            return leaf.items(
                names, release_id=release_id, thumbnails=thumbnails, embeddings=embeddings, timeout=timeout
            )

        return await self._ask_owners(item_ids, item_ids, manifest, deadline, ask, self._seconds)

    async def change(
        self,
        items: Sequence[C],
        manifest: Manifest,
        deadline: Deadline,
        call: Callable[[Leaf, list[C], float], Awaitable[list[Changed | Exception]]],
    ) -> list[Changed | Exception]:
        """Returns the outcome of each change, by the leaf that its item belongs to, or why there is none.

        A leaf may take as long as the deadline allows. Raises DeadlineExceeded.
        """
        ids = [item.item_id for item in items]
        return await self._ask_owners(ids, items, manifest, deadline, call, math.inf)

    def coverage(self, manifest: Manifest) -> float:
        """Returns the share of a release's items that could be searched now, as far as is known, in [0, 1]."""
        return _coverage([leaf for leaf in self.leaves if leaf.holds(manifest.release_id)], manifest)

    async def check_held(self, release: Release, served: Release | None) -> None:
        """Raises LeafUnavailable where it is too early to serve `release` in the place of `served`.

        It is time when every leaf that answers holds it, or when more of it can be searched than of the served one:
        a leaf that has refused a release must not keep the others' for ever, nor one that is away.
        """
        await asyncio.gather(*(leaf.look() for leaf in self.leaves))
        manifest = release.manifest
        coverage = self.coverage(manifest)
        lacking = [str(leaf.share) for leaf in self.leaves if leaf.reachable and not leaf.holds(manifest.release_id)]
        before = 0.0 if served is None else self.coverage(served.manifest)
        if coverage < self.min_coverage or (lacking and coverage <= before):
            raise errors.LeafUnavailable(
                f"leaves hold {coverage:.3f} of it, and {self.min_coverage} is the least"
                f"{'; it is missing at ' + ', '.join(lacking) if lacking else ''}."
            )

    async def watch(self, poll_seconds: float) -> None:
        """Looks at every leaf until cancelled, so that no query has to find out that one is away."""

        async def watch_one(leaf: ReplicatedLeaf) -> None:
            while True:
                await leaf.look()
                await asyncio.sleep(poll_seconds)

        await asyncio.gather(*(watch_one(leaf) for leaf in self.leaves))

    async def _ask_owners(
        self,
        item_ids: Sequence[str],
        values: Sequence[V],
        manifest: Manifest,
        deadline: Deadline,
        call: Callable[[Leaf, list[V], float], Awaitable[list[T]]],
        seconds: float,
    ) -> list[T | Exception]:
        """Returns what `call` does of each leaf with those of `values` whose items it owns, in their order."""
        shards = len(manifest.index.shards)
        places: dict[ReplicatedLeaf, list[int]] = {}
        for place, item_id in enumerate(item_ids):
            places.setdefault(self.leaves[layout.shard_of(item_id, shards) % len(self.leaves)], []).append(place)

        def asking(own: list[V]) -> Callable[[Leaf, float], Awaitable[list[T]]]:
            return lambda leaf, timeout: call(leaf, own, timeout)

        calls = {leaf: asking([values[place] for place in own]) for leaf, own in places.items()}
        outcomes = await self._ask_all(calls, manifest.release_id, deadline, hedged=False, seconds=seconds)
        found: list[Any] = [None] * len(values)
        for leaf, own in places.items():
            outcome = outcomes[leaf]
            for place, value in zip(
                own, [outcome] * len(own) if isinstance(outcome, Exception) else outcome, strict=True
            ):
                found[place] = value
        return found

    async def _ask_each(
        self,
        leaves: Sequence[ReplicatedLeaf],
        call: Callable[[Leaf, float], Awaitable[T]],
        release_id: str,
        deadline: Deadline,
        *,
        hedged: bool,
    ) -> dict[ReplicatedLeaf, T | Exception]:
        calls = dict.fromkeys(leaves, call)
        return await self._ask_all(calls, release_id, deadline, hedged=hedged, seconds=self._seconds)

    async def _ask_all(
        self,
        calls: dict[ReplicatedLeaf, Callable[[Leaf, float], Awaitable[T]]],
        release_id: str,
        deadline: Deadline,
        *,
        hedged: bool,
        seconds: float,
    ) -> dict[ReplicatedLeaf, T | Exception]:
        """Returns what each leaf says, or why it doesn't. seconds: the longest that it may take."""
        if not calls:
            return {}
        left = deadline.left()
        margin = min(MARGIN_SECONDS, MARGIN_SHARE * left)
        timeout = min(left - margin, seconds)
        tasks = {
            leaf: asyncio.create_task(leaf.ask(call, release_id, timeout, hedged=hedged))
            for leaf, call in calls.items()
        }
        try:
            # They end by themselves, and say why; this is for one that doesn't.
            await asyncio.wait(tasks.values(), timeout=timeout + margin / 2)
        finally:
            for task in tasks.values():
                task.cancel()
        return {leaf: _outcome(leaf, task) for leaf, task in tasks.items()}


def _outcome(leaf: ReplicatedLeaf, task: "asyncio.Task[T]") -> T | Exception:
    if not task.done() or task.cancelled():
        return errors.DeadlineExceeded(f"leaf {leaf.share} did not answer in time.")
    error = task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, Exception):
        raise error
    if not isinstance(error, errors.RetrievalError):
        _log.error("leaf %s failed unexpectedly: %r", leaf.share, error, exc_info=error)
        return errors.LeafUnavailable(f"leaf {leaf.share} failed.")
    return error


def _coverage(leaves: Sequence[ReplicatedLeaf], manifest: Manifest) -> float:
    shards = manifest.index.shards
    count = sum(shards[number].count for leaf in leaves for number in leaf.share.shards(len(shards)))
    return count / manifest.index.count


def _too_low(coverage: float, least: float, outcomes: dict[ReplicatedLeaf, Any]) -> errors.RetrievalError:
    found = {type(error): error for error in outcomes.values() if isinstance(error, errors.RetrievalError)}
    if len(found) == 1:
        [(kind, error)] = found.items()
        if issubclass(kind, _TOLD):
            return error
    return errors.CoverageTooLow(f"only {coverage:.3f} of the items can be searched now, and {least} is the least.")
