"""One contract for every index, in either environment: run this folder in both."""

import dataclasses
import json
import pathlib

import numpy as np
import numpy.typing as npt
import pytest

from serving.index import ExactIndex, Index, IndexParameters, build_index, load_index, read_parameters
from serving.index.kinds import KIND_BY_NAME
from serving.index.parameters import KINDS
from tests.serving.index.every_kind import EXACT, NARROW
from tests.serving.release_builder import unit_vectors


@pytest.fixture(params=["built", "loaded"])
def made(request: pytest.FixtureRequest, tmp_path: pathlib.Path):
    """Makes an index, fresh or saved, moved and loaded again."""

    def make(embeddings: npt.NDArray[np.float32], parameters: IndexParameters) -> Index:
        index = build_index(embeddings, parameters)
        if request.param == "built":
            return index
        index.save(tmp_path / "saved")
        np.save(tmp_path / "embeddings.npy", embeddings)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "saved").rename(tmp_path / "elsewhere" / "moved here")
        mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r" if len(embeddings) else None)
        return load_index(tmp_path / "elsewhere" / "moved here", mapped, parameters)

    return make


def scores_of(embeddings: npt.NDArray[np.float32], query: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]):
    return embeddings[rows].astype(np.float64) @ query


def test_no_kind_is_left_out() -> None:
    assert set(KINDS) == set(KIND_BY_NAME) == {parameters.kind for parameters in EXACT.values()}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("k", [1, 10, 1000, 5000])
def test_finds_the_nearest(made, name: str, k: int) -> None:
    embeddings, queries = unit_vectors(1000, 16), unit_vectors(5, 16, seed=1)
    index = made(embeddings, EXACT[name])
    assert (index.kind, index.count, index.dimension) == (EXACT[name].kind, 1000, 16)
    rows, scores = index.search(queries, k)
    assert rows.shape == scores.shape == (5, min(k, 1000))
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    for query, got, given in zip(queries, rows, scores, strict=True):
        assert len(set(got.tolist())) == len(got)
        exact = np.sort(embeddings.astype(np.float64) @ query)[::-1][: len(got)]
        np.testing.assert_allclose(scores_of(embeddings, query, got), exact, atol=1e-5)
        np.testing.assert_allclose(given, exact, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_a_batch_is_answered_like_its_queries(made, name: str) -> None:
    embeddings, queries = unit_vectors(500, 16), unit_vectors(300, 16, seed=1)
    index = made(embeddings, EXACT[name])
    rows, _ = index.search(queries, 5)
    for number in (0, 150, 299):
        np.testing.assert_array_equal(rows[number], index.search(queries[number : number + 1], 5)[0][0])
    rows, scores = index.search(queries[:0], 5)
    assert rows.shape == scores.shape == (0, 5)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_as_few_items_as_there_may_be(made, name: str, count: int) -> None:
    index = made(unit_vectors(count, 16), EXACT[name])
    for queries in (unit_vectors(1, 16, seed=1), unit_vectors(3, 16, seed=1)):
        rows, scores = index.search(queries, 10)
        assert rows.shape == scores.shape == (len(queries), count)
        assert all(sorted(line) == list(range(count)) for line in rows.tolist())
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", EXACT)
def test_duplicates_are_all_found(made, name: str) -> None:
    embeddings = np.repeat(unit_vectors(3, 16), 100, axis=0)
    index = made(embeddings, EXACT[name])
    rows, _ = index.search(embeddings[150:151], 100)
    assert sorted(rows[0].tolist()) == list(range(100, 200))
    rows, _ = index.search(embeddings[[0, 299]], 300)
    assert all(sorted(line) == list(range(300)) for line in rows.tolist())


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("queries", [1, 4])
def test_a_tree_gives_k_even_where_its_leaves_hold_fewer(made, name: str, queries: int) -> None:
    embeddings = unit_vectors(1000, 16)
    index = made(embeddings, NARROW[name])
    # 2 of 40 leaves hold some 50 items.
    rows, scores = index.search(unit_vectors(queries, 16, seed=1), 800)
    assert all(len(set(line)) == 800 for line in rows.tolist())
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", NARROW)
def test_a_narrow_tree_misses_some(made, name: str) -> None:
    embeddings, queries = unit_vectors(1000, 16), unit_vectors(50, 16, seed=1)
    found = made(embeddings, NARROW[name]).search(queries, 10)[0]
    exact = ExactIndex(embeddings).search(queries, 10)[0]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert 0.2 < recall < 0.98


@pytest.mark.parametrize("name", NARROW)
def test_an_index_can_be_searched_harder_than_it_was_built_for(made, name: str, tmp_path: pathlib.Path) -> None:
    embeddings, queries = unit_vectors(1000, 16), unit_vectors(20, 16, seed=1)
    narrow = NARROW[name]
    index = made(embeddings, narrow)
    hard = dataclasses.replace(narrow, leaves_to_search=narrow.leaves, reorder=1000)
    harder = index.tuned(hard)
    exact = ExactIndex(embeddings).search(queries, 10)[0]
    np.testing.assert_array_equal(harder.search(queries, 10)[0], exact)
    harder.save(tmp_path / "harder")
    assert read_parameters(tmp_path / "harder")[0] == hard
    # What was there is as it was.
    assert (index.search(queries, 10)[0] != exact).any()
    with pytest.raises(ValueError, match="can't be searched with"):
        index.tuned(dataclasses.replace(narrow, training_sample=5))


@pytest.mark.parametrize("name", EXACT)
def test_what_is_no_query_is_refused(name: str) -> None:
    index = build_index(unit_vectors(10, 8), EXACT[name])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.search(unit_vectors(1, 8), 0)
    with pytest.raises(ValueError, match=r"float32 \[Q, 8\], got float32 \(1, 9\)"):
        index.search(unit_vectors(1, 9), 1)
    with pytest.raises(ValueError, match=r"float64"):
        index.search(unit_vectors(1, 8).astype(np.float64), 1)
    with pytest.raises(ValueError, match=r"\(8,\)"):
        index.search(unit_vectors(1, 8)[0], 1)


@pytest.mark.parametrize("name", EXACT)
def test_a_saved_index_holds_no_embeddings_and_nothing_of_this_machine(name: str, tmp_path: pathlib.Path) -> None:
    build_index(unit_vectors(1000, 64), EXACT[name]).save(tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    if EXACT[name].kind in ("exact", "brute_force", "hamming"):
        assert files == ["parameters.json"]
    assert not {"dataset.npy", "scann_assets.pbtxt"} & set(files)
    assert not [file for file in tmp_path.iterdir() if str(tmp_path).encode() in file.read_bytes()]
    assert read_parameters(tmp_path) == (EXACT[name], (1000, 64))


@pytest.mark.parametrize("name", EXACT)
def test_another_index_than_expected_is_refused(name: str, tmp_path: pathlib.Path) -> None:
    embeddings = unit_vectors(100, 16)
    build_index(embeddings, EXACT[name]).save(tmp_path)
    with pytest.raises(ValueError, match=r"\(100, 16\) embeddings, got \(99, 16\)"):
        load_index(tmp_path, embeddings[:99])
    with pytest.raises(ValueError, match="was built with"):
        load_index(tmp_path, embeddings, IndexParameters("tree", leaves=3, leaves_to_search=2))
    parameters = tmp_path / "parameters.json"
    parameters.write_text(json.dumps({**json.loads(parameters.read_text()), "surprise": 1}))
    with pytest.raises(ValueError, match="unknown index parameters: surprise"):
        load_index(tmp_path, embeddings)
