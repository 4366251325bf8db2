import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.search.leaf import LeafResult
from serving.search.merge import merge
from serving.search.view import Method

# Few scores and few ids, so that many are equal.
PARTS = st.lists(
    st.lists(st.tuples(st.sampled_from([1.0, 0.5, 0.25, 0.0, -1.0]), st.integers(0, 30)), max_size=8), max_size=4
).filter(len)


def result(pairs: list[tuple[float, str]], method: Method = Method.EXACT, matching: int | None = None) -> LeafResult:
    ordered = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
    scores = np.array([score for score, _ in ordered], np.float32)
    names = [name for _, name in ordered]
    embeddings = np.array([[float(name)] for name in names], np.float32).reshape(-1, 1)
    return LeafResult(names, scores, method, matching, embeddings)


@hypothesis.given(parts=PARTS, k=st.integers(1, 12))
def test_it_is_the_best_of_all(parts: list[list[tuple[float, int]]], k: int) -> None:
    numbers = itertools.count()
    # An id is in one part only.
    named = [[(score, f"{name:02d}{next(numbers):03d}") for score, name in part] for part in parts]
    merged = merge([result(pairs) for pairs in named], k, str)
    expected = sorted((pair for pairs in named for pair in pairs), key=lambda pair: (-pair[0], pair[1]))[:k]
    assert list(zip(merged.scores.tolist(), merged.items, strict=True)) == expected
    assert merged.embeddings is not None
    assert merged.embeddings[:, 0].tolist() == [float(np.float32(name)) for _, name in expected]


def test_ids_are_asked_for_only_where_scores_are_equal() -> None:
    asked = []

    def id_of(item: str) -> str:
        asked.append(item)
        return item

    merge([result([(1.0, "1"), (0.5, "2")]), result([(0.75, "3"), (0.5, "4")])], 2, id_of)
    assert asked == []
    merge([result([(1.0, "1"), (0.5, "2")]), result([(0.75, "3"), (0.5, "4")])], 3, id_of)
    assert sorted(asked) == ["2", "4"]


@pytest.mark.parametrize(
    ("methods", "merged"),
    [
        ([Method.EXACT, Method.EXACT], Method.EXACT),
        ([Method.EXACT, Method.INDEX], Method.INDEX),
        ([Method.INDEX_FILTERED, Method.EXACT_FILTERED], Method.INDEX_FILTERED),
        ([Method.EXACT_FILTERED, Method.EXACT_FILTERED], Method.EXACT_FILTERED),
    ],
)
def test_it_was_found_as_the_least_exact_part_was(methods: list[Method], merged: Method) -> None:
    assert merge([result([(1.0, "1")], method) for method in methods], 1, str).method is merged


def test_matching_items_are_added_up() -> None:
    assert merge([result([], matching=3), result([(1.0, "1")], matching=4)], 1, str).matching == 7
    assert merge([result([]), result([])], 1, str).matching is None
