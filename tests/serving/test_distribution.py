"""Distributions by percentiles: what they say of values, and what is none."""

import json

import numpy as np
import pytest

from serving.release.distribution import Distribution


def test_percentiles_are_values_that_occurred() -> None:
    found = Distribution.of([3.0, 1.0, 2.0, 2.0])
    assert found is not None
    assert (found.count, set(found.percentiles)) == (4, {1.0, 2.0, 3.0})
    assert (found.percentiles[0], found.percentiles[50], found.percentiles[100]) == (1.0, 2.0, 3.0)


def test_shares_are_those_of_the_values_to_a_hundredth() -> None:
    values = np.random.default_rng(0).beta(5, 2, 777)
    found = Distribution.of(values)
    assert found is not None
    for value in np.linspace(-0.1, 1.1, 50):
        assert found.share_up_to(value) == pytest.approx((values <= value).mean(), abs=0.011)


def test_many_equal_values_have_their_share() -> None:
    found = Distribution.of([0.5] * 40 + [1.0] * 60)
    assert found is not None
    assert [found.share_up_to(value) for value in (0.4, 0.5, 0.9, 1.0, 2.0)] == [0.0, 0.4, 0.4, 1.0, 1.0]


def test_of_nothing_there_is_none() -> None:
    assert Distribution.of([]) is Distribution.of([np.nan, -np.inf]) is None
    one = Distribution.of([7.0, np.inf])
    assert one is not None
    assert (one.count, one.share_up_to(7.0)) == (1, 1.0)


def test_it_survives_json() -> None:
    found = Distribution.of(np.random.default_rng(1).normal(size=1000))
    assert found is not None
    assert Distribution.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"count": 1},
        {"count": 0, "percentiles": [0.0] * 101},
        {"count": 1, "percentiles": [0.0] * 100},
        {"count": 1, "percentiles": [1.0] + [0.0] * 100},
        {"count": 1, "percentiles": [float("nan")] * 101},
        {"count": "many", "percentiles": [0.0] * 101},
        {"count": 1, "percentiles": 1},
    ],
)
def test_what_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        Distribution.from_dict(value)
