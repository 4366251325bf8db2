"""What becomes of a root's calls to its leaves, and how much of the index its answers come from."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.release.share import Share
from serving.search.fanout import FanOut
from serving.telemetry.histogram import SECONDS, Histogram

OUTCOMES = ("ok", "unavailable", "deadline", "overloaded", "refused", "cancelled")
_COVERAGES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0)


class FanOutMetrics:
    """Counts calls, and looks at the leaves whenever Prometheus asks. Belongs to the event loop's thread."""

    def __init__(self, shares: Sequence[Share]) -> None:
        self._seconds = {(share, outcome): Histogram(SECONDS) for share in shares for outcome in OUTCOMES}
        self._coverage = Histogram(_COVERAGES)
        self._fan_out: FanOut | None = None

    def called(self, share: Share, outcome: str, seconds: float) -> None:
        """Counts a call to a leaf."""
        self._seconds[share, outcome].observe(seconds)

    def covered(self, coverage: float) -> None:
        """Counts a search of all leaves. coverage: 0 where none answered."""
        self._coverage.observe(coverage)

    def watch(self, fan_out: FanOut) -> None:
        """Looks at these leaves."""
        self._fan_out = fan_out

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        seconds = HistogramMetricFamily(
            "lookalike_leaf_seconds", "Seconds of calls to leaves, by how they ended.", labels=["leaf", "outcome"]
        )
        for (share, outcome), values in self._seconds.items():
            seconds.add_metric([str(share), outcome], values.buckets(), values.sum)
        yield seconds
        yield HistogramMetricFamily(
            "lookalike_coverage",
            "Share of the release's items that each search came from.",
            buckets=self._coverage.buckets(),
            sum_value=self._coverage.sum,
        )
        up = GaugeMetricFamily("lookalike_leaf_replicas_up", "Replicas of a leaf that answer.", labels=["leaf"])
        hedges = CounterMetricFamily(
            "lookalike_leaf_hedges", "Second replicas asked because the first was slow.", labels=["leaf"]
        )
        won = CounterMetricFamily("lookalike_leaf_hedges_won", "Those that answered first.", labels=["leaf"])
        for leaf in () if self._fan_out is None else self._fan_out.leaves:
            up.add_metric([str(leaf.share)], sum(replica.reachable for replica in leaf.replicas))
            hedges.add_metric([str(leaf.share)], leaf.hedges)
            won.add_metric([str(leaf.share)], leaf.hedges_won)
        yield from (up, hedges, won)
