import hypothesis
from hypothesis import strategies as st

from components.duplicates.groups import Group, Pair, find_groups


def names(contents: str) -> dict[str, list[str]]:
    """Returns an item for each content, named in the other order."""
    return {content: [f"item {chr(ord('z') - ord(content) + ord('a'))}"] for content in contents}


def test_a_chain_falls_into_stars():
    """a-b-c-d-e: b leads a and c, and d, which is near no leader, leads e."""
    pairs = [Pair(*ends, 0.95) for ends in ("ab", "bc", "cd", "de")]
    groups = find_groups(names("abcde"), pairs)
    assert groups == [Group("item x", ("item x", "item y", "item z"), 3), Group("item v", ("item v", "item w"), 2)]


def test_the_one_that_most_are_near_leads():
    """An original and its copies, which are not near one another; by its sha256 it is the last."""
    pairs = [Pair(copy, "z", 0.95) for copy in "abc"]
    items = {content: [content] for content in "abcz"}
    assert find_groups(items, pairs) == [Group("a", ("a", "b", "c", "z"), 4)]


def test_a_content_joins_the_leader_it_is_nearest_to():
    """b and d lead; c is near both."""
    pairs = [Pair("a", "b", 0.9), Pair("x", "b", 0.9), Pair("c", "b", 0.95), Pair("c", "d", 0.97), Pair("y", "d", 0.9)]
    items = {content: [content] for content in "abcdxy"}
    assert [group.items for group in find_groups(items, pairs)] == [("a", "b", "x"), ("c", "d", "y")]


def test_copies_are_a_group_and_stay_in_one():
    items = {"a": ["3", "1"], "b": ["2"], "c": ["5", "4", "0"], "d": ["6"]}
    groups = find_groups(items, [Pair("b", "a", 0.99), Pair("b", "a", 0.99)])
    assert groups == [Group("0", ("0", "4", "5"), 1), Group("1", ("1", "2", "3"), 2)]
    assert find_groups({}, []) == []


@hypothesis.given(
    st.dictionaries(st.frozensets(st.integers(0, 14), min_size=2, max_size=2), st.floats(-1, 1), max_size=40),
    st.randoms(use_true_random=False),
)
def test_groups_have_leaders_that_all_are_near(edges, random):
    items = {f"{n:02d}": [f"{(7 * n) % 15:02d}.png"] for n in range(15)}
    pairs = [Pair(*(f"{n:02d}" for n in sorted(ends)), cosine) for ends, cosine in edges.items()]
    groups = find_groups(items, pairs)
    content = {names[0]: key for key, names in items.items()}
    near = {frozenset((pair.first, pair.second)) for pair in pairs}
    grouped = [name for group in groups for name in group.items]
    assert len(set(grouped)) == len(grouped)
    for group in groups:
        contents = sorted(content[name] for name in group.items)
        assert group.name == min(group.items) and group.contents == len(contents) > 1
        led = [c for c in contents if all(frozenset((c, other)) in near for other in contents if other != c)]
        assert led
    swapped = [Pair(pair.second, pair.first, pair.cosine) if random.random() < 0.5 else pair for pair in pairs]
    random.shuffle(swapped)
    assert find_groups(dict(reversed(items.items())), swapped) == groups
