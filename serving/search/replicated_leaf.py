"""A leaf as the root sees it: one or more replicas, of which each call takes one, and another where that pays.

A call takes the replica that has the fewest calls under way: one that stands still has more and more of them. The
second request to another replica (hedging) follows "The Tail at Scale" (Dean and Barroso, CACM 2013): it is sent when
the first one takes longer than most do, and within a budget, so that it can't double the load of a slow leaf. The first
one goes on: it says how long it takes in truth, and that its replica is not to be asked before the others.
"""

import asyncio
import bisect
import collections
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from serving.encoders.breaker import Breaker, State
from serving.release.share import Share
from serving.search import errors
from serving.search.leaf import Leaf

T = TypeVar("T")
Call = Callable[[Leaf, float], Awaitable[T]]
# A call that had less time than this says nothing about the leaf when it is over.
_FAIR_SECONDS = 0.2
# What another replica may do better.
_ELSEWHERE = (errors.LeafUnavailable, errors.ReleaseNotHeld)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Hedging:
    """When a second replica is asked. percentile: of recent seconds, that the first one gets; in [0.5, 1].

    share: of the calls that may be hedged at most, in [0, 1]; 0 never hedges.
    """

    percentile: float = 0.95
    share: float = 0.05


class Latencies:
    """The seconds of the last calls, and what a percentile of them is."""

    def __init__(self, percentile: float, most: int = 512, least: int = 32) -> None:
        """least: calls before there is a percentile."""
        self._percentile = percentile
        self._recent: collections.deque[float] = collections.deque(maxlen=most)
        self._sorted: list[float] = []
        self._least = least

    def add(self, seconds: float) -> None:
        """Takes in a call."""
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent[0])]
        self._recent.append(seconds)
        bisect.insort(self._sorted, seconds)

    @property
    def bar(self) -> float | None:
        """What that share of the calls did not take longer than; None where too few are known."""
        count = len(self._sorted)
        return None if count < self._least else self._sorted[min(count - 1, int(self._percentile * count))]


class Budget:
    """Lets a share of calls through, and no more than `burst` of them in a row."""

    def __init__(self, share: float, burst: float = 10.0) -> None:
        self._share = share
        self._burst = burst
        self._saved = 0.0

    def earn(self) -> None:
        """Counts a call."""
        self._saved = min(self._burst, self._saved + self._share)

    def spend(self) -> bool:
        """Returns whether there is enough for one more."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Replica:
    """One process of a leaf. releases: that it said to hold. reachable: whether it answers when it is looked at.

    under_way: calls.
    """

    def __init__(self, leaf: Leaf, name: str, breaker: Breaker) -> None:
        self.leaf = leaf
        self.name = name
        self.breaker = breaker
        self.releases: frozenset[str] = frozenset()
        self.reachable = False
        self.under_way = 0
        self._said = ""

    async def look(self, share: Share, seconds: float) -> None:
        """Asks what it holds, for so long at most. Raises nothing."""
        try:
            status = await asyncio.wait_for(self.leaf.status(timeout=seconds), seconds)
            if status.share != share:
                raise errors.WrongShare(f"it holds the share {status.share} and not {share}.")
        except (errors.RetrievalError, asyncio.TimeoutError) as error:
            self._is(False, frozenset(), str(error) or "it doesn't answer.")
        except Exception as error:
            self._is(False, frozenset(), f"it failed unexpectedly: {error!r}", error)
        else:
            self._is(True, status.releases, "")

    def _is(self, reachable: bool, releases: frozenset[str], why: str, error: Exception | None = None) -> None:
        if reachable and not self.reachable:
            # Whatever failed before: it is worth a try.
            self.breaker.try_again()
            _log.info("leaf %s answers", self.name)
        elif not reachable and why != self._said:
            _log.warning("leaf %s is left out: %s", self.name, why, exc_info=error)
        self.reachable, self.releases, self._said = reachable, releases, why


class ReplicatedLeaf:
    """The replicas of one share. hedges, hedges_won: second requests, and how many of them answered first."""

    def __init__(
        self,
        share: Share,
        leaves: Sequence[tuple[str, Leaf]],
        *,
        seconds: float,
        failures: int,
        pause: float,
        hedging: Hedging,
        told: Callable[[Share, str, float], None] = lambda share, outcome, seconds: None,
    ) -> None:
        """leaves: name and leaf of each replica. seconds: that one may take to say what it holds. failures: in a row,
        after which one isn't asked for `pause` seconds.

        told: of each call how it ended (ok, unavailable, deadline, overloaded, refused, cancelled), and its seconds.
        """
        self.share = share
        self.replicas = [Replica(leaf, name, Breaker(failures, pause)) for name, leaf in leaves]
        self._seconds = seconds
        self._latencies = Latencies(hedging.percentile)
        self._budget = Budget(hedging.share)
        self._told = told
        self._turn = 0
        # Calls that another one was faster than.
        self._overtaken: set[asyncio.Task[Any]] = set()
        self.hedges = 0
        self.hedges_won = 0

    @property
    def reachable(self) -> bool:
        """Whether any replica answers."""
        return any(replica.reachable for replica in self.replicas)

    def holds(self, release_id: str) -> bool:
        """Returns whether any replica that answers holds a release."""
        return any(release_id in replica.releases for replica in self.replicas)

    async def look(self) -> None:
        """Asks every replica what it holds. Raises nothing."""
        await asyncio.gather(*(replica.look(self.share, self._seconds) for replica in self.replicas))

    async def ask(self, call: Call[T], release_id: str, timeout: float, *, hedged: bool = False) -> T:
        """Returns what `call` does of a replica that holds the release. hedged: whether all such calls are alike.

        Where a replica can't be reached another one is asked, once; one that has too much to do is no reason to give
        more to others. Raises LeafUnavailable and what Leaf's methods raise.
        """
        end = time.monotonic() + timeout
        candidates = self._candidates(release_id)
        if len(candidates) == 1:
            return await self._call(candidates[0], call, timeout, hedged)
        first = asyncio.create_task(self._call(candidates[0], call, timeout, hedged))
        second: asyncio.Task[T] | None = None
        self._budget.earn()
        try:
            bar = self._latencies.bar if hedged else None
            done, _ = await asyncio.wait({first}, timeout=timeout if bar is None else min(bar, timeout))
            if done and not isinstance(_error(first), _ELSEWHERE):
                return first.result()
            left = end - time.monotonic()
            if left > 0 and (done or self._budget.spend()):
                self.hedges += not done
                second = asyncio.create_task(self._call(candidates[1], call, left, hedged))
            return await self._first_answer(first, second, end)
        except BaseException:
            for task in (first, second):
                if task is not None and not task.done():
                    task.cancel()
            raise

    async def _first_answer(self, first: "asyncio.Task[T]", second: "asyncio.Task[T] | None", end: float) -> T:
        hedged = second is not None and not first.done()
        pending = {task for task in (first, second) if task is not None}
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=end - time.monotonic(), return_when=asyncio.FIRST_COMPLETED
            )
            answered = [task for task in done if _error(task) is None]
            if answered:
                self.hedges_won += hedged and first not in answered
                for other in pending:
                    self._overtaken.add(other)
                    other.add_done_callback(self._forget)
                return answered[0].result()
            if not done:
                raise errors.DeadlineExceeded(f"leaf {self.share} did not answer in time.")
        # Both have failed, or the only one.
        return (second or first).result()

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._overtaken.discard(task)
        # What it says is of no interest any more, but asyncio wants it looked at.
        _error(task)

    def _candidates(self, release_id: str) -> list[Replica]:
        """Returns replicas to ask, the one whose turn it is first."""
        there = [replica for replica in self.replicas if release_id in replica.releases]
        if not there:
            raise errors.LeafUnavailable(f"leaf {self.share} can't be reached, or doesn't hold release {release_id}.")
        self._turn += 1
        turn = self._turn % len(there)
        there = there[turn:] + there[:turn]
        # One that fails comes last, also when its turn has come; of the others, who has less to do comes first.
        return sorted(there, key=lambda replica: (replica.breaker.state is State.OPEN, replica.under_way))

    async def _call(self, replica: Replica, call: Call[T], timeout: float, alike: bool) -> T:
        if not replica.breaker.allow():
            raise errors.LeafUnavailable(f"leaf {replica.name} failed again and again; it is asked again soon.")
        outcome, begun = "cancelled", time.perf_counter()
        replica.under_way += 1
        try:
            answer = await call(replica.leaf, timeout)
            outcome = "ok"
            return answer
        except errors.LeafUnavailable:
            outcome = "unavailable"
            raise
        except errors.DeadlineExceeded:
            outcome = "deadline"
            raise
        except errors.Overloaded:
            outcome = "overloaded"
            raise
        except errors.RetrievalError:
            outcome = "refused"
            raise
        finally:
            replica.under_way -= 1
            seconds = time.perf_counter() - begun
            self._count(replica.breaker, outcome, timeout)
            if alike and outcome == "ok":
                self._latencies.add(seconds)
            self._told(self.share, outcome, seconds)

    def _count(self, breaker: Breaker, outcome: str, timeout: float) -> None:
        if outcome == "unavailable" or (outcome == "deadline" and timeout >= _FAIR_SECONDS):
            breaker.failed()
        elif outcome in ("deadline", "cancelled"):
            breaker.abandoned()
        else:
            # Whatever it said, it is there.
            breaker.succeeded()


def _error(task: "asyncio.Task[Any]") -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()
