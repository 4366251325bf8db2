"""The oracle of the other kinds."""

import numpy as np

from serving.index import ExactIndex
from tests.serving.release_builder import unit_vectors


def test_exact_breaks_ties_by_row() -> None:
    embeddings = np.tile(unit_vectors(1, 4), (20000, 1))
    rows, _ = ExactIndex(embeddings).search(embeddings[:1], 10)
    # More than one block; a matrix product may round equals differently at its edges.
    assert rows[0].tolist() == list(range(10))
