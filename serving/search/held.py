"""The releases that are held: the served one, changed in one assignment, and for a while those that were served before.

Each is freed after its last request.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from serving.release.release import Release
from serving.search import errors
from serving.search.searcher import Searcher
from serving.search.view import View


class Holding:
    """A release and how many use it; closed when nobody does. Used by several threads at once.

    A context manager, for one of its users: drops it at the end.
    """

    def __init__(self, searcher: Searcher[Any]) -> None:
        """Takes over the release of `searcher`, with one user: whoever made this."""
        self.searcher = searcher
        self.release = searcher.release
        self.release_id = searcher.release.manifest.release_id
        self._users = 1
        self._lock = threading.Lock()

    @property
    def view(self) -> View[Any]:
        """What is answered from now: the release, with what was changed beside it."""
        return self.searcher.view

    def retain(self) -> "Holding":
        """Adds a user and returns this holding; the caller must be one itself."""
        with self._lock:
            self._users += 1
        return self

    def drop(self) -> None:
        """Takes a user away; the last one closes the release."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.searcher.close()

    def __enter__(self) -> "Holding":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()


class Held:
    """What queries are answered from. Empty until the first release was verified."""

    def __init__(
        self, *, keep_releases: int = 0, keep_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """keep_releases, keep_seconds: how many that were served before are kept, and how long, for who pins them."""
        self._current: Holding | None = None
        # With the moment when it is given up, the one that was served last first.
        self._kept: list[tuple[Holding, float]] = []
        self._keep_releases = keep_releases
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._lock = threading.Lock()

    def take(self, release_id: str = "") -> Holding:
        """Returns the holding of a release, or the current one, with one more user, who must `drop` it.

        Raises NoRelease where none is served yet, ReleaseNotHeld where it isn't that one.
        """
        with self._lock:
            if self._current is None:
                raise errors.NoRelease("no release is being served yet.")
            if not release_id or release_id == self._current.release_id:
                return self._current.retain()
            for holding, _ in self._kept:
                if holding.release_id == release_id:
                    return holding.retain()
            raise errors.ReleaseNotHeld(release_id, self._current.release_id)

    def take_all(self) -> list[Holding]:
        """Returns every holding, the current one first, each with one more user, who must `drop` it."""
        with self._lock:
            holdings = [*([] if self._current is None else [self._current]), *(holding for holding, _ in self._kept)]
            return [holding.retain() for holding in holdings]

    def flip(self, searcher: Searcher[Any] | None) -> None:
        """Makes another release the current one (None: none at all). Requests that took the old one finish on it."""
        new = None if searcher is None else Holding(searcher)
        with self._lock:
            self._replace(new)
        self.expire()

    def flip_back(self, release_id: str) -> bool:
        """Makes a kept release the current one; returns whether it was kept."""
        with self._lock:
            found = next((pair for pair in self._kept if pair[0].release_id == release_id), None)
            if found is not None:
                self._kept.remove(found)
                self._replace(found[0])
        self.expire()
        return found is not None

    def expire(self) -> None:
        """Gives up what was kept long enough, or is one too many."""
        now = self._clock()
        with self._lock:
            # Nothing is kept where nothing is served: that is the end.
            most = 0 if self._current is None else self._keep_releases
            kept = [pair for pair in self._kept[:most] if pair[1] > now]
            dropped = [pair for pair in self._kept if pair not in kept]
            self._kept = kept
        for holding, _ in dropped:
            holding.drop()

    @property
    def current(self) -> Release | None:
        """The current release, to read its manifest; it may be closed at any moment."""
        holding = self._current
        return None if holding is None else holding.release

    @property
    def kept(self) -> list[Release]:
        """The releases that are kept beside it, to read their manifests."""
        with self._lock:
            return [holding.release for holding, _ in self._kept]

    def _replace(self, new: Holding | None) -> None:
        old, self._current = self._current, new
        if old is not None:
            self._kept.insert(0, (old, self._clock() + self._keep_seconds))
