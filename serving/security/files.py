"""Files that are replaced while they are in use: certificates, keys, tokens."""

import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
_Stamp = tuple[tuple[int, int, int], ...]


class Fresh(Generic[T]):
    """What is made of some files, made anew when one of them has changed. May be used from any number of threads.

    Files that can't be used don't replace ones that could: whoever is replacing them may not be done yet.
    """

    def __init__(
        self, files: Sequence[str], make: Callable[[], T], *, failed: Callable[[Exception], None] = lambda error: None
    ) -> None:
        """make: raises OSError or ValueError for files that can't be used, at first, too. failed: told of it later."""
        self._files = [pathlib.Path(file) for file in files]
        self._make = make
        self._failed = failed
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._failed_stamp: _Stamp = ()
        self._value = make()

    def get(self) -> T:
        """Returns it, as the files are now."""
        return self.changed() or self._value

    def changed(self) -> T | None:
        """Returns it where the files have changed since this was last asked, else None."""
        with self._lock:
            stamp = self._look()
            if stamp in (self._stamp, self._failed_stamp):
                return None
            try:
                self._value = self._make()
            except (OSError, ValueError) as error:
                self._failed_stamp = stamp
                self._failed(error)
                return None
            self._stamp = stamp
            return self._value

    def _look(self) -> _Stamp:
        stamps = []
        for file in self._files:
            try:
                stat = file.stat()
                stamps.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)
