"""Whether the values of queries are still distributed as those that the release was evaluated with."""

import bisect
import collections
import itertools
import math

from serving.release.distribution import Distribution

WINDOW = 1000
LEAST = 200
_MOST_BINS = 10
# Fewer reference values in a bin would make the index large by chance.
_LEAST_EXPECTED = 20
# Values nearer than this, relatively, may be one that was computed in another order.
_TOLERANCE = 1e-5


class Drift:
    """The population stability index (PSI) of the last WINDOW values against a reference.

    The range is cut at the reference's own quantiles into at most ten bins; with `o` the share of the last values in
    a bin and `e` that of the reference, PSI = sum of (o - e) * ln(o / e). It is 0 where both are distributed alike, and
    is the divergence of Jeffreys (1946) between the two. Practice takes less than 0.1 for stable and more than 0.25 for
    shifted (Siddiqi, "Credit Risk Scorecards", 2006, where PSI is named). By chance alone it is about
    (bins - 1) * (1 / count + 1 / WINDOW) (Yurdakul, "Statistical Properties of Population Stability Index", 2018): 0.02
    with a thousand reference values, which is why there are fewer bins where those are few. Half a value is added to
    every bin, so that an empty one doesn't make it infinite.
    """

    def __init__(self, reference: Distribution, *, window: int = WINDOW, least: int = LEAST) -> None:
        """least: values that there must be before the index says anything."""
        self.reference = reference
        self._least = least
        self._edges, self._expected = _bins(reference)
        self._counts = [0] * len(self._expected)
        self._last: collections.deque[int] = collections.deque(maxlen=window)

    def observe(self, value: float) -> None:
        """Takes a value into the window; the oldest goes."""
        last, counts = self._last, self._counts
        if len(last) == last.maxlen:
            counts[last[0]] -= 1
        at = bisect.bisect_left(self._edges, value)
        last.append(at)
        counts[at] += 1

    @property
    def values(self) -> int:
        """How many values the window holds."""
        return len(self._last)

    def index(self) -> float | None:
        """Returns the PSI, at least 0; None where there are too few values, or the reference can't be cut into bins."""
        counts = list(self._counts)
        total = sum(counts)
        if total < self._least or len(counts) < 2:
            return None
        smoothed = total + len(counts) / 2
        shares = [(count + 0.5) / smoothed for count in counts]
        return sum((o - e) * math.log(o / e) for o, e in zip(shares, self._expected, strict=True))


def _bins(reference: Distribution) -> tuple[list[float], list[float]]:
    """Returns the edges between bins, ascending, and the reference's share in each: one more, all above 0."""
    bins = min(_MOST_BINS, reference.count // _LEAST_EXPECTED)
    edges: list[float] = []
    shares = [0.0]
    for number in range(1, bins):
        edge = reference.percentiles[round(100 * number / bins)]
        edge += abs(edge) * _TOLERANCE
        share = reference.share_up_to(edge)
        # Where many values are equal, neighbouring quantiles are, too; and beyond the last value there is nothing.
        if shares[-1] < share < 1:
            edges.append(edge)
            shares.append(share)
    if bins >= 2 and not edges:
        # Nearly all are the greatest value: what matters is whether a value is that, or less.
        most = reference.percentiles[-1]
        edges = [min(most - abs(most) * _TOLERANCE, math.nextafter(most, -math.inf))]
        shares.append(max(reference.share_up_to(edges[0]), 0.5 / reference.count))
    shares.append(1.0)
    return edges, [after - before for before, after in itertools.pairwise(shares)]
