"""The population stability index: what moves it, and what doesn't."""

import numpy as np
import pytest

from serving.release.distribution import Distribution
from serving.telemetry.drift import LEAST, WINDOW, Drift

RANDOM = np.random.default_rng(5)


def reference(values: np.ndarray) -> Distribution:
    found = Distribution.of(values.tolist())
    assert found is not None
    return found


def index(drift: Drift, values: np.ndarray) -> float:
    for value in values.tolist():
        drift.observe(value)
    found = drift.index()
    assert found is not None
    return found


def by_hand(expected: np.ndarray, seen: np.ndarray, bins: int = 10) -> float:
    """PSI as the books have it, from the values themselves."""
    edges = np.quantile(expected, np.linspace(0, 1, bins + 1))[1:-1]
    e = np.bincount(np.searchsorted(edges, expected), minlength=bins) / len(expected)
    o = np.bincount(np.searchsorted(edges, seen), minlength=bins) / len(seen)
    return float(((o - e) * np.log(o / e)).sum())


def test_it_is_that_of_the_books() -> None:
    expected, seen = RANDOM.beta(8, 2, 1000), RANDOM.beta(6, 2, 1000)
    assert index(Drift(reference(expected)), seen) == pytest.approx(by_hand(expected, seen), rel=0.1)


@pytest.mark.parametrize("count", [40, 100, 200, 1000, 100_000])
def test_the_same_distribution_is_stable_however_few_made_the_reference(count: int) -> None:
    indexes = [index(Drift(reference(RANDOM.beta(8, 2, count))), RANDOM.beta(8, 2, LEAST)) for _ in range(50)]
    # 0.25 is where people are woken: by chance next to never.
    assert np.quantile(indexes, 0.98) < 0.25
    assert np.median(indexes) < 0.12


@pytest.mark.parametrize("count", [40, 200, 1000])
def test_another_distribution_is_shifted(count: int) -> None:
    for _ in range(20):
        assert index(Drift(reference(RANDOM.beta(8, 2, count))), RANDOM.beta(3, 3, WINDOW)) > 0.25


def test_it_forgets_what_left_the_window() -> None:
    drift = Drift(reference(RANDOM.beta(8, 2, 1000)))
    assert index(drift, RANDOM.beta(2, 8, WINDOW)) > 1
    assert index(drift, RANDOM.beta(8, 2, WINDOW)) < 0.1
    assert drift.values == WINDOW


def test_it_says_nothing_of_a_few_values() -> None:
    drift = Drift(reference(RANDOM.beta(8, 2, 1000)))
    for _ in range(LEAST - 1):
        drift.observe(0.5)
    assert drift.index() is None
    drift.observe(0.5)
    assert drift.index() is not None


def test_it_says_nothing_where_there_are_too_few_references() -> None:
    drift = Drift(reference(RANDOM.beta(8, 2, 39)))
    for _ in range(WINDOW):
        drift.observe(0.0)
    assert drift.index() is None


@pytest.mark.parametrize("duplicates", [300, 950, 1000])
def test_many_equal_values_are_no_drift_and_their_absence_is(duplicates: int) -> None:
    """A collection of duplicates: the best score of most queries is 1, but for what rounding makes of it."""
    expected = np.concatenate([np.ones(duplicates), RANDOM.uniform(0.5, 0.9, 1000 - duplicates)])
    again = np.concatenate([np.ones(duplicates) - 1e-7, RANDOM.uniform(0.5, 0.9, 1000 - duplicates)])
    assert index(Drift(reference(expected)), RANDOM.permutation(again)) < 0.1
    assert index(Drift(reference(expected)), RANDOM.uniform(0.5, 0.9, WINDOW)) > 0.25


def test_rounding_moves_nothing_across_an_edge() -> None:
    """Half of the values are one, in the midst of the others: an edge lies on it."""
    expected = np.concatenate([np.full(500, 0.7), RANDOM.uniform(0.5, 0.9, 500)])
    again = np.concatenate([0.7 + RANDOM.choice([-1e-7, 1e-7], 500), RANDOM.uniform(0.5, 0.9, 500)])
    assert index(Drift(reference(expected)), RANDOM.permutation(again)) < 0.1


def test_a_reference_of_zeros_can_be_compared_with() -> None:
    assert index(Drift(reference(np.zeros(100))), np.zeros(WINDOW)) < 0.1
    assert index(Drift(reference(np.zeros(100))), np.full(WINDOW, -0.1)) > 1


def test_values_beyond_all_references_count() -> None:
    drift = Drift(reference(RANDOM.uniform(0.4, 0.6, 1000)))
    assert index(drift, np.full(WINDOW, 5.0)) > 1
    assert index(drift, np.full(WINDOW, -5.0)) > 1


def test_all_alike_is_finite() -> None:
    assert 1 < index(Drift(reference(RANDOM.beta(8, 2, 1000))), np.full(WINDOW, 0.1)) < 20
