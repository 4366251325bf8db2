import numpy as np
import pytest

from components.evaluation.spectrum import spectrum


def test_effective_rank_counts_equal_directions():
    rows = np.repeat(np.concatenate([np.eye(4), -np.eye(4)]), 3, axis=0).astype(np.float32)
    found = spectrum(np.pad(rows, ((0, 0), (0, 2))))
    assert found.effective_rank == pytest.approx(4.0)
    assert found.spread == pytest.approx(1.0)
    assert found.dead_share == pytest.approx(2 / 6)
    assert found.norm_error == 0.0
    assert found.singular_values == pytest.approx((0.25,) * 4 + (0.0, 0.0), abs=1e-6)


def test_singular_values_are_numpys_also_for_fewer_rows_than_dimensions():
    for shape in ((7, 3), (3, 7)):
        rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        theirs = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
        assert spectrum(rows).singular_values == pytest.approx(tuple(theirs / theirs.sum()), abs=1e-5)


def test_nothing_varies():
    found = spectrum(np.full((5, 3), 0.1, np.float32))
    assert (found.effective_rank, found.farthest, found.dead_share) == (0.0, 0.0, 1.0)
    assert found.spread == pytest.approx(0.0, abs=1e-12)
    assert spectrum(np.ones((1, 3), np.float32)).effective_rank == 0.0


def test_what_is_no_number_is_told():
    assert not spectrum(np.asarray([[np.nan, 1.0], [1.0, 0.0]], np.float32)).is_finite
