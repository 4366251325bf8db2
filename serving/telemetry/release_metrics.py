"""Which release is served, how old it is, and what became of those that were to follow it."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.held import Held


class ReleaseMetrics:
    """Looks at what is held whenever Prometheus asks."""

    def __init__(self, held: Held, *, wanted: Callable[[], str], faults: Mapping[str, int]) -> None:
        """wanted: what `CURRENT` named when last looked at. faults: releases that were refused, by kind of fault."""
        self._held = held
        self._wanted = wanted
        self._faults = faults
        self._swaps = 0

    def flipped(self) -> None:
        """Counts that another release is served."""
        self._swaps += 1

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        release, kept, wanted = self._held.current, self._held.kept, self._wanted()
        yield _gauge("lookalike_release_serving", "1 where a release is served, else 0.", release is not None)
        served = "" if release is None else release.manifest.release_id
        behind = bool(wanted) and wanted != served
        yield _gauge(
            "lookalike_release_behind", "1 where CURRENT names another release than is served, else 0.", behind
        )
        yield _gauge("lookalike_releases_held", "Releases in memory.", len(kept) + (release is not None))
        info = GaugeMetricFamily(
            "lookalike_release_info",
            "The served release.",
            labels=["release_id", "encoder_model", "encoder_version", "index_kind"],
        )
        age = GaugeMetricFamily("lookalike_release_age_seconds", "Seconds since the served release was made.")
        items = GaugeMetricFamily("lookalike_release_items", "Images in the served release.")
        if release is not None:
            manifest = release.manifest
            encoder = manifest.encoder
            info.add_metric([served, encoder.model, str(encoder.version), manifest.index.kind], 1)
            age.add_metric([], max(0.0, time.time() - manifest.created))
            items.add_metric([], manifest.index.count)
        yield from (info, age, items)
        swaps = "Times that another release was taken over, the first included."
        yield CounterMetricFamily("lookalike_release_swaps", swaps, self._swaps)
        refusals = CounterMetricFamily("lookalike_release_refusals", "Releases refused, by fault.", labels=["fault"])
        for fault, count in sorted(self._faults.items()):
            refusals.add_metric([fault], count)
        yield refusals


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, float(value))
