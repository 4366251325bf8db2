"""How queries compare with what the served release was evaluated with: best scores and reconstruction errors."""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.release.distribution import Distribution
from serving.release.release import Release
from serving.telemetry.drift import Drift
from serving.telemetry.histogram import Histogram, cumulative

SCORES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 0.995, 0.999, 1.0)
# Mean squared errors of pixels in [0, 1].
ERRORS = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
)
_log = logging.getLogger(__name__)


class ReleaseDrift:
    """Compares queries with the reference distributions of the served release. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._release_id = ""
        self._encoder = ("", 0)
        self._seen_scores, self._seen_errors = Histogram(SCORES), Histogram(ERRORS)
        self._scores: Drift | None = None
        self._errors: Drift | None = None

    def flipped(self, release: Release) -> None:
        """Compares with another release from now on."""
        manifest = release.manifest
        self._release_id = manifest.release_id
        self._encoder = (manifest.encoder.model, manifest.encoder.version)
        self._scores = _drift(manifest.evaluation.get("top1_scores"), "top-1 scores", manifest.release_id)
        errors = release.encoder_info.metrics.get("reconstruction_errors")
        self._errors = _drift(errors, "reconstruction errors", manifest.release_id)

    def scored(self, release_id: str, score: float) -> None:
        """Takes the best score of a query that asked for whatever is nearest."""
        # Rounding may lift a cosine above 1, and a histogram's sum must not fall.
        if not 0.0 <= score <= 1.0:
            score = min(max(score, 0.0), 1.0)
        self._seen_scores.observe(score)
        if self._scores is not None and release_id == self._release_id:
            self._scores.observe(score)

    def compares_errors(self, model: str, version: int) -> bool:
        """Returns whether the reconstruction errors of this encoder can be compared with anything."""
        return self._errors is not None and (model, version) == self._encoder

    def reconstructed(self, model: str, version: int, error: float) -> None:
        """Takes the reconstruction error of a query's image."""
        self._seen_errors.observe(error)
        if self._errors is not None and (model, version) == self._encoder:
            self._errors.observe(error)

    def collect(self) -> Iterator[Metric]:
        """Yields what Prometheus is told."""
        yield from _compared("top1_score", "Cosine of the best neighbour of queries", self._seen_scores, self._scores)
        text = "Mean squared reconstruction error of a sample of query images"
        yield from _compared("reconstruction_error", text, self._seen_errors, self._errors)


def _drift(value: Any, what: str, release_id: str) -> Drift | None:
    if value is None:
        return None
    try:
        return Drift(Distribution.from_dict(value))
    except ValueError as error:
        # Answers don't depend on it.
        _log.warning("release %s has no usable distribution of %s: %s", release_id, what, error)
        return None


def _compared(name: str, text: str, seen: Histogram, drift: Drift | None) -> Iterator[Metric]:
    yield HistogramMetricFamily(f"lookalike_{name}", f"{text}.", buckets=seen.buckets(), sum_value=seen.sum)
    # A metric without a sample: what there is nothing to compare with is not told to be alike.
    reference = HistogramMetricFamily(f"lookalike_reference_{name}", f"{text}, when the release was made.", labels=[])
    index = GaugeMetricFamily(f"lookalike_{name}_drift", f"{text}: population stability index against the release's.")
    window = GaugeMetricFamily(f"lookalike_{name}_drift_window", "Queries that the drift is of.")
    if drift is not None:
        reference.add_metric([], *_reference(drift.reference, seen.bounds))
        window.add_metric([], drift.values)
        value = drift.index()
        if value is not None:
            index.add_metric([], value)
    yield from (reference, index, window)


def _reference(distribution: Distribution, bounds: tuple[float, ...]) -> tuple[list[tuple[str, float]], float]:
    shares = [distribution.share_up_to(bound) for bound in bounds]
    totals = [0, *(round(distribution.count * share) for share in shares), distribution.count]
    counts = [after - before for before, after in itertools.pairwise(totals)]
    mean = sum(distribution.percentiles) / len(distribution.percentiles)
    return cumulative(bounds, counts), mean * distribution.count
