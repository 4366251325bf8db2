"""What was changed beside the served release, and how the journal does."""

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.search.following import Following
from serving.search.forwarded_updates import ForwardedUpdates
from serving.search.updates import Updates
from serving.telemetry.histogram import SECONDS, Histogram


class UpdateMetrics:
    """Looks at them whenever Prometheus asks; see docs/monitoring.md."""

    def __init__(self) -> None:
        self._append = Histogram(SECONDS)
        self._updates: Updates | ForwardedUpdates | None = None
        self._following: Following | None = None

    def appended(self, seconds: float) -> None:
        """Counts a write to the journal."""
        self._append.observe(seconds)

    def watch(self, updates: Updates | ForwardedUpdates, following: Following) -> None:
        """Looks at these."""
        self._updates, self._following = updates, following

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        updates, following = self._updates, self._following
        if updates is None or following is None:
            return
        text = "Upserts and deletes that this process has acknowledged."
        changes = CounterMetricFamily("lookalike_updates", text, labels=["kind"])
        changes.add_metric(["upsert"], updates.upserts)
        changes.add_metric(["delete"], updates.deletes)
        yield changes
        text = "Seconds to make a group of upserts and deletes durable."
        yield HistogramMetricFamily(
            "lookalike_journal_append_seconds", text, buckets=self._append.buckets(), sum_value=self._append.sum
        )
        yield from self._overlay(following)

    def _overlay(self, following: Following) -> Iterator[Metric]:
        builder = following.current
        counts = (0, 0, 0) if builder is None else (builder.count, builder.hidden, builder.missing)
        texts = {
            "lookalike_overlay_items": "Upserted items that are searched beside the served release.",
            "lookalike_overlay_hidden": "Items of the served release that were deleted or replaced.",
            "lookalike_overlay_missing": "Upserted items that can't be searched: the encoder has not embedded them.",
        }
        for (name, text), count in zip(texts.items(), counts, strict=True):
            yield GaugeMetricFamily(name, text, count)
        text = "1 where so much was changed beside the served release that it is time for a reindex."
        yield GaugeMetricFamily("lookalike_reindex_advised", text, int(following.advised))
        age = 0.0 if following.seen is None else time.monotonic() - following.seen
        yield GaugeMetricFamily("lookalike_journal_age_seconds", "Seconds since the journal was last read.", age)
        text = "Processes that took updates and whose journal can't be read: later updates of theirs are not searched."
        yield GaugeMetricFamily("lookalike_journal_damaged", text, following.damaged)
