"""A digest of a set, for what is too large to be sorted."""

import hashlib


class SetDigest:
    """A sha256 over a set of lines that comes out the same in any order, so that nobody has to hold or sort them."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, *fields: object) -> None:
        """Adds one line."""
        # As Python writes a tuple down: quoted, so that no two neighbours can trade characters, and always encodable.
        line = ascii(fields).encode()
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(line).digest(), "big")) % 2**256
        self._count += 1

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
