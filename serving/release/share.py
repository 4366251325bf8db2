"""Which shards of every release a process holds, where several share the work: a rule that needs no list."""

import dataclasses
import re

_TEXT = re.compile(r"(\d{1,4})/(\d{1,4})")


@dataclasses.dataclass(frozen=True)
class Share:
    """Part `number` of `of`: of however many shards a release has, every `of`-th from `number` on.

    So releases may have other numbers of shards than those before. Raises ValueError.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"share must be I/N with I in [0, N), got {self.number}/{self.of}.")

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Returns the share in `0/4`, the first of four; raises ValueError."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"share must be I/N, such as 0/4 for the first of four, got {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def shards(self, count: int) -> list[int]:
        """Returns the numbers of its shards, ascending, of a release that has `count`; there may be none."""
        return list(range(self.number, count, self.of))


WHOLE = Share(0, 1)
