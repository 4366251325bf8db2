import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.search.collapse import Content, collapse, collapse_groups


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def slow(vectors: np.ndarray, cosine: float, most: int) -> list[int]:
    """The oracle: one result after the other."""
    leaders: list[int] = []
    owners: list[int] = []
    for i, vector in enumerate(vectors):
        near = [leader for leader in leaders if float(vectors[leader] @ vector) >= cosine - 1e-6]
        if near:
            owners.append(near[0])
        elif len(leaders) == most:
            break
        else:
            leaders.append(i)
            owners.append(i)
    return owners


@hypothesis.given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([0, 1, 5, 255, 256, 257, 700]),
    contents=st.integers(1, 60),
    noise=st.sampled_from([0.0, 0.05, 0.4]),
    cosine=st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.001]),
    most=st.integers(1, 40),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_it_is_what_one_after_the_other_gives(
    seed: int, count: int, contents: int, noise: float, cosine: float, most: int
) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(contents, 8))[random.integers(0, contents, count)]
    vectors = unit(vectors + noise * random.normal(size=(count, 8))) if count else np.empty((0, 8), np.float32)
    # On the very edge the order of a sum decides: nothing that a test could hold.
    products = vectors @ vectors.T
    hypothesis.assume(not (np.abs(products - (cosine - 1e-6)) < 3e-7).any())
    assert collapse(vectors, cosine, most).tolist() == slow(vectors, cosine, most)


@pytest.mark.parametrize("dimension", [2, 64, 512])
def test_equal_embeddings_are_one_at_1(dimension: int) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(50, dimension)))
    owners = collapse(np.concatenate([vectors, vectors]), 1.0, 100)
    assert owners.tolist() == [*range(50), *range(50)]


def test_a_chain_does_not_collapse_into_one() -> None:
    """Each lies near the one before, but only those near one that stands for itself are collapsed."""
    angles = np.radians(np.arange(0, 60, 10))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert collapse(vectors, float(np.cos(np.radians(15))), 10).tolist() == [0, 0, 2, 2, 4, 4]


def test_groups_count_as_one_and_so_does_identical_content() -> None:
    contents = [
        Content("", "1"),  # stands for itself
        Content("a", "2"),
        Content("", "3"),  # upserted beside the release: of the same content as one of group b, which comes later
        Content("a", "4"),
        Content("", "1"),
        Content("b", "3"),
        Content("b", "5"),
        Content("", "6"),
    ]
    assert collapse_groups(contents, 10).tolist() == [0, 1, 2, 1, 0, 2, 2, 7]
    assert collapse_groups(contents, 3).tolist() == [0, 1, 2, 1, 0, 2, 2], "the fourth would begin with the last"
    assert collapse_groups(contents, 2).tolist() == [0, 1]
    assert collapse_groups([], 2).tolist() == []


def test_no_group_is_taken_for_content() -> None:
    """An item may be named by the sha256 of another."""
    assert collapse_groups([Content("1", "2"), Content("", "1"), Content("1", "3")], 10).tolist() == [0, 1, 0]


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 2)), max_size=40), st.integers(1, 8)
)
def test_what_was_collapsed_in_parts_collapses_to_the_same(made: list[tuple[int, int, int]], most: int) -> None:
    """As a root does with what its leaves found: content -> (group, copy), dealt to three leaves."""
    contents = [Content(f"group {content // 2}" if content < 4 else "", str(content)) for content, _, _ in made]
    whole = collapse_groups(contents, most)
    kept = []
    for leaf in range(3):
        places = [place for place, (_, _, owner) in enumerate(made) if owner == leaf]
        owners = collapse_groups([contents[place] for place in places], most)
        kept += [places[i] for i, owner in enumerate(owners.tolist()) if i == owner]
    kept.sort()
    merged = collapse_groups([contents[place] for place in kept], most)
    leaders = [kept[i] for i, owner in enumerate(merged.tolist()) if i == owner]
    assert leaders == [i for i, owner in enumerate(whole.tolist()) if i == owner]
