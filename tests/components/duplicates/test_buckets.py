import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from components.duplicates.buckets import BANDS, band, near_pairs, turned
from components.duplicates.perceptual_hash import distances


def near(hashes: np.ndarray, hamming: int) -> set[tuple[int, int]]:
    """The oracle: every pair."""
    rows, columns = np.nonzero(np.triu(distances(hashes[:, None], hashes[None, :]) <= hamming, 1))
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


def found(hashes: np.ndarray, order: np.ndarray, hamming: int) -> set[tuple[int, int]]:
    pairs = near_pairs(hashes, order, hamming)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    return {(min(pair), max(pair)) for pair in pairs.tolist()}


def flipped(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """Returns hashes that differ in so many bits."""
    random = np.random.default_rng(seed)
    changed = np.zeros_like(hashes)
    for row in range(len(hashes)):
        for bit in random.choice(64, bits, replace=False).tolist():
            changed[row] ^= np.uint64(1 << bit)
    return hashes ^ changed


def random_hashes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


@pytest.mark.parametrize("count", [0, 1, 2, 100, 512, 1000, 1024])
def test_a_bucket_of_few_misses_no_pair(count):
    hashes = random_hashes(count, 1)
    hashes[1::2] = flipped(hashes[::2], 6, 2)[: count // 2]
    expected = near(hashes, 8)
    assert len(expected) >= count // 2
    assert found(hashes, random_hashes(count, 3), 8) == expected


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from([0, 2**63, 255]), st.integers(0, 255)), max_size=12), st.integers(0, 12)
)
@hypothesis.settings(deadline=None)
def test_few_near_ones_are_all_paired(made, hamming):
    hashes = np.array([high ^ low for high, low in made], np.uint64)
    order = random_hashes(len(made), 5)
    # Of nine or more that are near, the nearest and first are kept.
    hypothesis.assume(len(made) <= 9)
    assert found(hashes, order, hamming) == near(hashes, hamming)


def test_of_many_that_are_near_the_nearest_and_the_first_are_kept():
    hashes = flipped(np.zeros(300, np.uint64), 2, 1)
    order = random_hashes(300, 2)
    pairs = found(hashes, order, 4)
    first = int(order.argmin())
    assert {pair for pair in pairs if first in pair} == {
        (min(i, first), max(i, first)) for i in range(300) if i != first
    }
    assert len(pairs) <= 300 * 16 < len(near(hashes, 4))


def test_a_large_bucket_is_chained():
    """Of 5,000 that are all near, none is compared with more than 1,536; each finds its equal next to it."""
    count = 5000
    hashes = random_hashes(count, 1)
    hashes[1::2] = hashes[::2]
    pairs = found(hashes, random_hashes(count, 2), 64)
    assert {(i, i + 1) for i in range(0, count, 2)} <= pairs
    place = np.empty(count, np.int64)
    place[np.argsort(hashes, kind="stable")] = np.arange(count)
    assert max(abs(place[a] - place[b]) for a, b in pairs) <= 1024


def test_a_turned_hash_begins_with_its_band():
    hashes = random_hashes(50, 1)
    for number in range(BANDS):
        ahead = turned(hashes, number)
        assert (band(ahead, 7) == band(hashes, number)).all()
        np.testing.assert_array_equal(distances(ahead[:1], ahead), distances(hashes[:1], hashes))


def test_bands_find_what_differs_in_few_bits():
    hashes = random_hashes(2000, 1)
    assert [int(band(hashes[:1], number)[0]) for number in range(BANDS)] == list(hashes[:1].view(np.uint8))
    for bits, share in ((7, 1.0), (10, 0.9)):
        other = flipped(hashes, bits, bits)
        together = np.any([band(hashes, number) == band(other, number) for number in range(BANDS)], axis=0)
        # 0.97 are expected, of 2,000: the bits are drawn from a seed, so this comes out the same everywhere.
        assert together.mean() >= share
