"""A client for programs with many threads: searches that are asked for at the same time go to the gateway together."""

import collections
import dataclasses
import threading
import time
from collections.abc import Sequence
from typing import Any

from lookalike.retrieval.v1 import retrieval_pb2
from serving.client import failures
from serving.client.answers import Answer, to_answer
from serving.client.channel import Credentials
from serving.client.client import DEFAULT_ADDRESS, Client, Query, to_request
from serving.client.failures import QueryFailed

# What a gateway takes in one call (see serving.search.query), and a part of what it takes in one message.
_MOST_K = 25_600
_MOST_BYTES = 4 * 2**20


@dataclasses.dataclass
class _Waiting:
    """A query, and what becomes of it. end: when it is too late, by time.monotonic.

    turn: held until there is an outcome, or until it is this thread's turn to make the next call.
    """

    request: Any
    bytes: int
    end: float
    turn: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    outcome: Any = None


class GatheringClient(Client):
    """A Client whose `search` may be called by many threads at once, for less than half of what each call would cost.

    A search alone goes at once. What is asked for while `calls` are under way goes together, in one BatchSearch, when
    one of them is back; so batches grow with the load, and nobody waits for company. Each query keeps its own outcome,
    its own timeout and its own `release_id`; one that can't be answered fails alone. Only where a whole call fails, as
    when the gateway can't be reached, do all of its queries. Answers that came together have no seconds, as in a batch.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = 30.0,
        credentials: Credentials | None = None,
        queries: int = 64,
        calls: int = 1,
    ) -> None:
        """queries: in a call at most, in [1, 256]. calls: under way at once, at least 1. The others as for Client."""
        if not 1 <= queries <= 256:
            raise ValueError(f"queries must be in [1, 256], got {queries}.")
        if calls < 1:
            raise ValueError(f"calls must be at least 1, got {calls}.")
        super().__init__(address, timeout=timeout, credentials=credentials)
        self._most = queries
        self._free = calls
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._lock = threading.Lock()

    def _search(self, query: Query) -> Answer:
        request = to_request(query)
        waiting = _Waiting(request, request.ByteSize(), time.monotonic() + self._timeout)
        waiting.turn.acquire()
        with self._lock:
            leads = self._free > 0
            if leads:
                self._free -= 1
                # Whoever is called next has left nobody in the queue.
                batch = [waiting]
            else:
                self._queue.append(waiting)
        if not leads:
            batch = self._wait(waiting)
        if batch:
            self._lead(batch)
        if isinstance(waiting.outcome, Exception):
            raise waiting.outcome
        return to_answer(waiting.outcome)

    def _wait(self, waiting: _Waiting) -> list[_Waiting]:
        """Waits for the outcome, and returns nothing; or for its turn, and returns the batch to ask for."""
        in_time = False
        try:
            in_time = waiting.turn.acquire(timeout=max(0.0, waiting.end - time.monotonic()))
        except BaseException:
            self._leave(waiting)
            raise
        with self._lock:
            if waiting.outcome is not None:
                return []
            if not in_time and not waiting.turn.acquire(blocking=False):
                # Neither: it is left to its call, or never begun.
                waiting.outcome = _late(self._timeout)
                return []
            return self._next(waiting)

    def _leave(self, waiting: _Waiting) -> None:
        """Leaves others their turn where this thread was interrupted."""
        with self._lock:
            if waiting.outcome is None:
                waiting.outcome = _abandoned()
                if waiting.turn.acquire(blocking=False):
                    self._hand_on()

    def _next(self, first: _Waiting) -> list[_Waiting]:
        """Takes what goes with the first of the queue, in the order in which it came; the lock is held."""
        batch, k, size = [first], first.request.k, first.bytes
        while self._queue and len(batch) < self._most:
            waiting = self._queue[0]
            k, size = k + max(0, waiting.request.k), size + waiting.bytes
            if waiting.outcome is None:
                if waiting.request.release_id != first.request.release_id or k > _MOST_K or size > _MOST_BYTES:
                    break
                batch.append(waiting)
            self._queue.popleft()
        return batch

    def _lead(self, batch: Sequence[_Waiting]) -> None:
        """Asks for a batch, of which the first is this thread's own; then lets the next one be asked for."""
        # Whatever ends this thread, such as Ctrl-C, must not leave the others waiting.
        outcomes: Sequence[Any] = [_abandoned() for _ in batch]
        try:
            outcomes = self._outcomes(batch)
        except Exception as error:
            outcomes = [_copy(error) for _ in batch]
        finally:
            with self._lock:
                for waiting, outcome in zip(batch, outcomes, strict=True):
                    if waiting.outcome is None:
                        waiting.outcome = outcome
                # Before the others: the gateway has nothing to do until it makes the next call.
                self._hand_on()
            for waiting in batch[1:]:
                waiting.turn.release()

    def _hand_on(self) -> None:
        """Gives the turn to the first of the queue that somebody still waits for, if any; the lock is held."""
        while self._queue:
            waiting = self._queue.popleft()
            if waiting.outcome is None:
                waiting.turn.release()
                return
        self._free += 1

    def _outcomes(self, batch: Sequence[_Waiting]) -> Sequence[Any]:
        left = max(waiting.end for waiting in batch) - time.monotonic()
        if left <= 0:
            return [_late(self._timeout) for _ in batch]
        if len(batch) == 1:
            return [self._call(self._stub.Search, batch[0].request, left)]
        release_id = batch[0].request.release_id
        requests = [waiting.request for waiting in batch]
        request = retrieval_pb2.BatchSearchRequest(requests=requests, release_id=release_id)
        results = self._call(self._stub.BatchSearch, request, left).results
        if len(results) != len(batch):
            raise QueryFailed("INTERNAL", f"{len(results)} answers to {len(batch)} queries.", "", "", None)
        return [
            failures.from_status(result.error) if result.HasField("error") else result.response for result in results
        ]


def _late(timeout: float) -> QueryFailed:
    text = f"no answer within {timeout:g} s."
    return QueryFailed("DEADLINE_EXCEEDED", text, "", "", None)


def _abandoned() -> QueryFailed:
    text = "the thread that asked for this query together with its own was interrupted."
    return QueryFailed("CANCELLED", text, "", "", None)


def _copy(error: Exception) -> Exception:
    # An exception that several threads raise would collect the tracebacks of all of them.
    if not isinstance(error, QueryFailed):
        return error
    copy = QueryFailed(error.code, str(error), error.reason, error.field, error.retry_seconds)
    copy.__cause__ = error.__cause__
    return copy
