"""The release that is held: one reference, changed in one assignment, freed after its last request."""

import threading

from serving import errors
from serving.release.reader import Release


class Holding:
    """A release and how many use it; closed when nobody does. Used by several threads at once."""

    def __init__(self, release: Release) -> None:
        """Takes over `release`, with one user: whoever made this."""
        self.release = release
        self._users = 1
        self._lock = threading.Lock()

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
            self.release.close()


class Held:
    """What queries are answered from. Empty until the first release was verified."""

    def __init__(self) -> None:
        self._current: Holding | None = None
        self._lock = threading.Lock()

    def take(self) -> Holding:
        """Returns the current holding with one more user, who must `drop` it; raises NoRelease where there is none."""
        with self._lock:
            if self._current is None:
                raise errors.NoRelease("no release is being served yet.")
            return self._current.retain()

    def flip(self, release: Release | None) -> None:
        """Makes `release` the current one (None: none at all). Requests that took the old one finish on it."""
        new = None if release is None else Holding(release)
        with self._lock:
            old, self._current = self._current, new
        if old is not None:
            old.drop()

    @property
    def current(self) -> Release | None:
        """The current release, to read its manifest; it may be closed at any moment."""
        holding = self._current
        return None if holding is None else holding.release
