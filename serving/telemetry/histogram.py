"""Histograms that cost a fraction of a microsecond: they belong to the event loop, where no lock is needed."""

import bisect
from collections.abc import Sequence

from prometheus_client.utils import floatToGoString

# From a search that the loop does itself to the longest that a request may take.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Histogram:
    """How many values fell up to each of `bounds`, ascending. Changed by one thread; any may read it."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Returns how many values were at most each bound, as Prometheus has it: (bound, count), the last +Inf."""
        return cumulative(self.bounds, self.counts)


def cumulative(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    """Returns Prometheus' buckets of counts between bounds, of which the last is beyond all bounds."""
    total, buckets = 0.0, []
    # Counts may grow while they are read: each is read once, so that the sums never fall.
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        buckets.append((floatToGoString(bound), total))  # type: ignore[no-untyped-call]
    return buckets
