import numpy as np
import pytest

from serving.index import ExactIndex, HammingIndex, IndexParameters, build_index, pack_codes
from tests.serving.release_builder import unit_vectors


def near(embeddings: np.ndarray, rows: list[int], seed: int = 7) -> np.ndarray:
    """Returns unit vectors a little off some embeddings."""
    moved = embeddings[rows] + 0.1 * np.random.default_rng(seed).normal(size=(len(rows), embeddings.shape[1]))
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dimension", [8, 12, 16, 24, 32, 64, 72, 128, 512])
def test_what_is_short_listed_has_the_least_distances(dimension: int) -> None:
    # More than a block, and for many bits fewer.
    embeddings = unit_vectors(40_000 if dimension <= 64 else 500, dimension)
    queries = near(embeddings, [0, 399])
    # A short list is no longer than what is asked for where that is more than it would be.
    index = build_index(embeddings, IndexParameters("hamming", reorder=1))
    for short in (10, 77, 499):
        rows = index.search(queries, short)[0]
        for query, found in zip(queries, rows, strict=True):
            distances = ((embeddings >= 0) != (query >= 0)).sum(axis=1)
            assert sorted(distances[found]) == sorted(distances)[:short]
            # Of equals those that come first.
            assert set(found) == set(np.argsort(distances, kind="stable")[:short])


def test_the_short_list_is_ranked_by_the_embeddings() -> None:
    embeddings = unit_vectors(5000, 64)
    queries = near(embeddings, list(range(50)))
    exact = ExactIndex(embeddings).search(queries, 10)[0]

    def recall(reorder: int) -> float:
        found = build_index(embeddings, IndexParameters("hamming", reorder=reorder)).search(queries, 10)[0]
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]))

    found = [recall(reorder) for reorder in (10, 100, 1000, 5000)]
    assert found == sorted(found) and found[0] < 0.6 and found[3] == 1.0


def test_of_signs_the_cosine_is_the_hamming_distance() -> None:
    signs = (np.where(unit_vectors(2000, 32) < 0, -1, 1) / 32**0.5).astype(np.float32)
    rows, scores = build_index(signs, IndexParameters("hamming", reorder=1)).search(signs[:20], 2000)
    distances = (np.sign(signs[:20, None]) != np.sign(signs[None])).sum(axis=2)
    np.testing.assert_allclose(scores, 1 - 2 * np.sort(distances, axis=1) / 32, atol=1e-6)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(2000), (20, 1)))


def test_more_effort_looks_further() -> None:
    embeddings = unit_vectors(5000, 64)
    queries = near(embeddings, list(range(50)))
    index = build_index(embeddings, IndexParameters("hamming", reorder=30))
    exact = ExactIndex(embeddings).search(queries, 10)[0]
    shares = [(index.search(queries, 10, effort=effort)[0][:, :, None] == exact[:, None]).sum() for effort in (1, 4)]
    assert shares[1] > 1.1 * shares[0]


def test_a_code_is_what_an_encoder_packs() -> None:
    codes = pack_codes(np.array([[1, -1, 0, -0.5, 2, 3, -4, 5, -1]], np.float32))
    assert codes.dtype == np.uint8 and codes.tolist() == [[0b10101101, 0]]


def test_the_bytes_of_an_item() -> None:
    for dimension, size in ((8, 1), (12, 2), (64, 8), (512, 64)):
        index = build_index(unit_vectors(100, dimension), IndexParameters("hamming"))
        assert isinstance(index, HammingIndex) and index.bytes_per_item == size == index._words.nbytes / 100
