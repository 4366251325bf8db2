"""What only ScaNN's folders can have wrong."""

import dataclasses
import pathlib

import pytest

from serving.index import Index, IndexParameters, build_index, load_index
from tests.serving.index.every_kind import EXACT
from tests.serving.release_builder import unit_vectors


def test_a_pickle_beside_the_index_is_not_read(tmp_path: pathlib.Path) -> None:
    embeddings = unit_vectors(100, 16)
    build_index(embeddings, EXACT["tree"]).save(tmp_path)
    (tmp_path / "scann_docids.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert load_index(tmp_path, embeddings).search(embeddings[:1], 1)[0].tolist() == [[0]]


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    embeddings = unit_vectors(100, 16)
    build_index(embeddings, EXACT["tree"]).save(tmp_path)
    (tmp_path / "serialized_partitioner.pb").unlink()
    with pytest.raises(FileNotFoundError, match=r"serialized_partitioner\.pb"):
        load_index(tmp_path, embeddings)


def test_more_is_scored_exactly_for_more_neighbors_and_for_more_effort() -> None:
    embeddings, queries = unit_vectors(4000, 32, seed=1), unit_vectors(20, 32, seed=2)
    # All leaves are searched: only what isn't proposed can be missed.
    hashed = IndexParameters("tree", leaves=2, leaves_to_search=2, scoring="hash", hash_dimensions=4, reorder=100)
    index, exact = build_index(embeddings, hashed), build_index(embeddings, IndexParameters("exact"))
    no_deeper_than_k = index.tuned(dataclasses.replace(hashed, reorder=1))

    def missed(index: Index, k: int, effort: int) -> int:
        found, wanted = index.search(queries, k, effort=effort)[0], exact.search(queries, k)[0]
        return sum(len(set(right) - set(rows)) for rows, right in zip(found.tolist(), wanted.tolist(), strict=True))

    assert missed(index, 10, 8) < missed(index, 10, 1) < missed(no_deeper_than_k, 10, 1)
    assert missed(index, 100, 8) < missed(index, 100, 1) < missed(no_deeper_than_k, 100, 1)


def test_a_single_leaf_that_should_be_hashed_answers_right() -> None:
    embeddings = unit_vectors(100, 16)
    index = build_index(embeddings, IndexParameters("tree", scoring="hash"))
    assert index.search(embeddings, 1)[0][:, 0].tolist() == list(range(100))
