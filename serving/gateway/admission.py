"""Admission: how many requests, and how many of their bytes, may be at work at once. What is more is refused."""

import collections
import enum


class Kind(str, enum.Enum):
    """Requests that hold images wait for decoding and for the encoder; the others are answered in no time.

    A str, because an Enum's own hash is computed in Python.
    """

    PLAIN = "plain"
    IMAGES = "images"


# What a kind can't take from the other.
_KEPT = 0.25


class Admission:
    """Used from the event loop only."""

    def __init__(self, in_flight: int, in_flight_bytes: int) -> None:
        """in_flight: requests of both kinds, of which each kind gets three quarters at most."""
        self._most = in_flight
        self._most_of_kind = in_flight - max(1, int(in_flight * _KEPT))
        self._most_bytes = in_flight_bytes
        self._bytes = 0
        self.in_flight: collections.Counter[Kind] = collections.Counter()
        self._total = 0
        # How many requests of each kind were refused; None where they were refused unread.
        self.refused: collections.Counter[Kind | None] = collections.Counter()
        # How many came when their deadline had passed already.
        self.late = 0

    @property
    def full(self) -> bool:
        """Whether nothing more is admitted, whatever it is."""
        return self._total >= self._most

    def enter(self, kind: Kind, size: int) -> bool:
        """Returns whether a request of `size` bytes is admitted; where it is, `leave` must follow.

        A single request is never too large: that is said elsewhere.
        """
        if (
            self._total >= self._most
            or self.in_flight[kind] >= self._most_of_kind
            or (self._bytes and self._bytes + size > self._most_bytes)
        ):
            self.refused[kind] += 1
            return False
        self._total += 1
        self._bytes += size
        self.in_flight[kind] += 1
        return True

    def leave(self, kind: Kind, size: int) -> None:
        """Makes room again."""
        self._total -= 1
        self._bytes -= size
        self.in_flight[kind] -= 1
