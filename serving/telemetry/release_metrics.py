"""Which release is served, how old it is, and what became of those that were to follow it."""

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.gateway.watcher import Watcher
from serving.release.verify import FAULTS
from serving.search.held import Held


class ReleaseMetrics:
    """Looks at what is held, and at what follows `CURRENT`, whenever Prometheus asks."""

    def __init__(self, held: Held, watcher: Watcher) -> None:
        self._held = held
        self._watcher = watcher
        self._swaps = 0

    def flipped(self) -> None:
        """Counts that another release is served."""
        self._swaps += 1

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        yield from self._served()
        release, kept, wanted = self._held.current, self._held.kept, self._watcher.wanted
        served = "" if release is None else release.manifest.release_id
        text = "1 where CURRENT names another release than is served, else 0."
        yield GaugeMetricFamily("lookalike_release_behind", text, float(bool(wanted) and wanted != served))
        text = "1 where the release that CURRENT names is refused, else 0."
        yield GaugeMetricFamily("lookalike_release_refused", text, float(wanted in self._watcher.refused))
        yield GaugeMetricFamily("lookalike_releases_held", "Releases in memory.", len(kept) + (release is not None))
        text = "Times that another release was taken over, the first included."
        yield CounterMetricFamily("lookalike_release_swaps", text, self._swaps)
        refusals = CounterMetricFamily("lookalike_release_refusals", "Releases refused, by fault.", labels=["fault"])
        for fault in FAULTS:
            refusals.add_metric([fault], self._watcher.faults[fault])
        yield refusals

    def _served(self) -> Iterator[Metric]:
        release = self._held.current
        labels = ["release_id", "encoder_model", "encoder_version", "index_kind"]
        info = GaugeMetricFamily("lookalike_release_info", "The served release.", labels=labels)
        age = GaugeMetricFamily("lookalike_release_age_seconds", "Seconds since the served release was made.")
        items = GaugeMetricFamily("lookalike_release_items", "Images in the served release.")
        if release is not None:
            manifest = release.manifest
            encoder, index = manifest.encoder, manifest.index
            info.add_metric([manifest.release_id, encoder.model, str(encoder.version), index.kind], 1)
            age.add_metric([], max(0.0, time.time() - manifest.created))
            items.add_metric([], index.count)
        text = "1 where a release is served, else 0."
        yield GaugeMetricFamily("lookalike_release_serving", text, float(release is not None))
        yield from (info, age, items)
