"""How values of a release are distributed: what a gateway compares the values of queries with."""

import bisect
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

PERCENTILES = 101
_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Distribution:
    """`count` values by their percentiles 0, 1 ... 100: each the least value that so many percent don't exceed."""

    count: int
    percentiles: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}.")
        if len(self.percentiles) != PERCENTILES:
            raise ValueError(f"there must be {PERCENTILES} percentiles, got {len(self.percentiles)}.")
        if not all(map(math.isfinite, self.percentiles)):
            raise ValueError("percentiles must be finite.")
        if list(self.percentiles) != sorted(self.percentiles):
            raise ValueError("percentiles must ascend.")

    @classmethod
    def of(cls, values: Iterable[float]) -> "Distribution | None":
        """Returns how the finite ones of `values` are distributed, to six digits; None where there are none."""
        array = np.asarray(list(values), np.float64)
        array = array[np.isfinite(array)]
        if not len(array):
            return None
        found = np.quantile(array, np.linspace(0, 1, PERCENTILES), method="inverted_cdf")
        return cls(len(array), tuple(float(f"{value:.{_DIGITS}g}") for value in found))

    def share_up_to(self, value: float) -> float:
        """Returns which share of the values is at most `value`, in [0, 1], to a hundredth."""
        return max(0, bisect.bisect_right(self.percentiles, value) - 1) / (PERCENTILES - 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON value."""
        return {"count": self.count, "percentiles": list(self.percentiles)}

    @classmethod
    def from_dict(cls, value: Any) -> "Distribution":
        """Returns the distribution in a JSON value; raises ValueError where it isn't one."""
        try:
            return cls(int(value["count"]), tuple(float(v) for v in value["percentiles"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a distribution: {error!r}") from error
