"""A digest of a set, for what is too large to be sorted."""

import hashlib
from collections.abc import Iterable


class SetDigest:
    """A sha256 over a set of lines that comes out the same in any order, so that nobody has to hold or sort them."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, *fields: object) -> None:
        """Adds one line."""
        self.add_all([fields])

    def add_all(self, lines: Iterable[tuple[object, ...]]) -> None:
        """Adds lines, each given as its fields."""
        sha256, number = hashlib.sha256, int.from_bytes
        # As Python writes a tuple down: quoted, so that no two neighbours can trade characters, and always encodable.
        numbers = [number(sha256(ascii(line).encode()).digest(), "big") for line in lines]
        self._sum = (self._sum + sum(numbers)) % 2**256
        self._count += len(numbers)

    def merge(self, state: str) -> None:
        """Adds the lines of another digest, given its `state`."""
        count, total = state.split(":")
        self._sum = (self._sum + int(total, 16)) % 2**256
        self._count += int(count)

    @property
    def state(self) -> str:
        """The digest so far, to be merged into another."""
        return f"{self._count}:{self._sum:x}"

    def hexdigest(self) -> str:
        """Returns the digest, in hex."""
        return hashlib.sha256(self.state.encode()).hexdigest()
