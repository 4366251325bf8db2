"""What only ScaNN's folders can have wrong."""

import pathlib

import pytest

from serving.index import build_index, load_index
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
