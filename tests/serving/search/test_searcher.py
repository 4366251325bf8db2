"""Filters, collapse and minimal scores over a real index, against brute force."""

import dataclasses
import pathlib
import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from serving.index import IndexParameters
from serving.release.items import Item
from serving.release.reader import Release, open_release
from serving.search import filters
from serving.search.filter_language import parse
from serving.search.filters import Comparison, Operator
from serving.search.searcher import EXACT_UP_TO, Matching, Searcher
from serving.search.view import MOST_EXAMINED, Method, Wanted
from serving.storage import open_store
from tests.serving.release_builder import build_release, make_items, unit_vectors

COUNT, DIMENSION = 20_000, 16
# So few leaves that ten are found, and no more than ten: what looks deeper must look further.
TREE = IndexParameters("tree", leaves=141, leaves_to_search=4)
Vectors = npt.NDArray[np.float32]


def clustered(count: int, seed: int = 0) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Returns embeddings `[count, DIMENSION]` as encoders make them, and the cluster of each. All seeds share those."""
    centers = np.random.default_rng(99).normal(size=(200, DIMENSION))
    random = np.random.default_rng(seed)
    clusters = random.integers(0, 200, count)
    vectors = centers[clusters] + 0.5 * random.normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), clusters


@dataclasses.dataclass
class Large:
    """A release of a tree index. share: the attributes below are true for so many. queries: `[Q, DIMENSION]`."""

    searcher: Searcher[Item]
    embeddings: Vectors
    columns: dict[str, npt.NDArray[np.bool_]]
    queries: Vectors

    @property
    def release(self) -> Release:
        return self.searcher.release

    def best(self, query: Vectors, k: int, mask: npt.NDArray[np.bool_] | None = None) -> list[int]:
        """Returns the rows of the true neighbours, best first."""
        scores = self.embeddings @ query
        if mask is not None:
            scores = np.where(mask, scores, -np.inf)
        order = np.argsort(-scores, kind="stable")[:k]
        return order[np.isfinite(scores[order])].tolist()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    embeddings, clusters = clustered(COUNT)
    random = np.random.default_rng(1)
    queries, _ = clustered(40, seed=2)
    columns = {f"random {share}": random.random(COUNT) < share for share in (0.5, 0.05, 0.005, 0.0005)}
    # What lies where the queries are is left out: the matches are the far ones.
    nearness = (embeddings @ queries.T).max(axis=1)
    for share in (0.5, 0.05, 0.005, 0.0005):
        columns[f"far {share}"] = nearness <= np.quantile(nearness, share)
    # Whole clusters, some of which hold queries, and some not.
    columns["clusters"] = clusters % 2 == 0
    # Dense far away, thin around the queries: there are enough matches at a depth, but not those at the usual one.
    columns["thin near"] = random.random(COUNT) < np.where(nearness > np.median(nearness), 0.1, 0.9)
    items = [
        dataclasses.replace(item, attributes={name: bool(column[i]) for name, column in columns.items()}, thumbnail=b"")
        for i, item in enumerate(make_items(COUNT))
    ]
    root = tmp_path_factory.mktemp("large") / "root"
    release_id = build_release(root, items=items, embeddings=embeddings, parameters=TREE, golden_recall=0.9)
    searcher = Searcher(open_release(open_store(root), release_id), lambda item: item, cached_items=100)
    yield Large(searcher, embeddings, columns, queries)
    searcher.release.close()


def recall(large: Large, name: str | None, k: int = 10) -> tuple[float, set[Method]]:
    filter_ = None if name is None else Comparison(name, Operator.EQUAL, (True,))
    mask = None if name is None else large.columns[name]
    found = expected = 0
    methods = set()
    for query in large.queries:
        result = large.searcher.find(query, Wanted(k, filter=filter_), None)
        methods.add(result.method)
        assert result.matching == (None if mask is None else mask.sum())
        assert mask is None or mask[result.rows].all()
        assert sorted(result.scores, reverse=True) == result.scores
        best = large.best(query, k, mask)
        assert len(result.rows) == len(best)
        found += len(set(best) & set(result.rows))
        expected += len(best)
    return found / expected, methods


def test_the_tree_itself_is_good_enough_to_judge_filters_by(large: Large) -> None:
    assert recall(large, None)[0] >= 0.99


@pytest.mark.parametrize(
    "name", [f"{kind} {share}" for kind in ("random", "far") for share in (0.5, 0.05, 0.005, 0.0005)]
)
def test_a_filter_does_not_destroy_recall(large: Large, name: str) -> None:
    reached, methods = recall(large, name)
    assert reached >= 0.99
    if large.columns[name].sum() <= EXACT_UP_TO:
        assert (reached, methods) == (1.0, {Method.EXACT_FILTERED})
    elif name == "random 0.5":
        assert methods == {Method.INDEX_FILTERED}


@pytest.mark.parametrize("name", ["clusters", "thin near"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_neither_does_one_that_goes_with_the_embeddings(large: Large, name: str, k: int) -> None:
    assert recall(large, name, k)[0] >= 0.99


def test_every_neighbour_of_a_filter_on_an_exact_index_is_found(tmp_path: pathlib.Path) -> None:
    embeddings, _ = clustered(6000)
    release_id = build_release(tmp_path / "root", items=make_items(6000), embeddings=embeddings)
    searcher = Searcher(open_release(open_store(tmp_path / "root"), release_id), lambda item: item, cached_items=0)
    numbers = np.arange(6000)
    for text, mask in (
        ("number < 5900", numbers < 5900),
        ('not label in ("1", "2")', ~np.isin(numbers % 10, (1, 2))),
        ("number >= 5995 or weight = 0.5", (numbers >= 5995) | (numbers == 1)),
        ('even = true and label = "1"', np.zeros(6000, np.bool_)),
    ):
        for query in clustered(5, seed=3)[0]:
            result = searcher.find(query, Wanted(10, filter=parse(text)), None)
            scores = np.sort(np.where(mask, embeddings @ query, -np.inf))[::-1][: min(10, mask.sum())]
            assert (result.matching, result.method) == (mask.sum(), Method.EXACT_FILTERED)
            assert mask[result.rows].all()
            np.testing.assert_allclose(result.scores, scores, atol=1e-6)
    searcher.release.close()


def test_a_filter_leaves_the_query_item_out(large: Large) -> None:
    row = int(np.flatnonzero(large.columns["random 0.0005"])[0])
    filter_ = Comparison("random 0.0005", Operator.EQUAL, (True,))
    result = large.searcher.find(large.embeddings[row], Wanted(1000, filter=filter_), row)
    assert set(result.rows) == set(np.flatnonzero(large.columns["random 0.0005"]).tolist()) - {row}
    assert result.matching == len(result.rows) + 1


@pytest.mark.parametrize("k", [1, 10, 400])
def test_many_at_once_are_answered_as_one_by_one(large: Large, k: int) -> None:
    shared = 0
    for query, found in zip(large.queries, large.searcher.find_each(large.queries, k), strict=True):
        alone = large.searcher.find(query, Wanted(k), None)
        assert (len(found.rows), found.method) == (k, alone.method)
        assert found.scores == sorted(found.scores, reverse=True)
        np.testing.assert_allclose(found.scores, large.embeddings[found.rows] @ query, atol=1e-6)
        shared += len(set(found.rows) & set(alone.rows))
    # A tree rounds otherwise when it takes many at once: of two leaves as near it may look into the other.
    assert shared >= 0.95 * k * len(large.queries)


def test_a_filter_is_read_once(large: Large, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    where = large.release.where
    monkeypatch.setattr(large.release, "where", lambda *a: (asked.append(a), where(*a))[1])
    for filter_ in (parse("number < 77"), parse("number < 77"), parse("number < 77.0"), parse("even = true")):
        large.searcher.find(large.queries[0], Wanted(1, filter=filter_), None)
    # 77 and 77.0 match the same, but 1 and true don't: told apart by their text, they are asked for once too often.
    assert len(asked) == 3


# Few matches are also remembered as rows.
@pytest.mark.parametrize("share", [0.3, 0.01])
def test_a_bitmap_is_the_mask(share: float) -> None:
    random = np.random.default_rng(0)
    for size in (1, 7, 8, 9, 1000):
        mask = random.random(size) < share
        matching = Matching(mask)
        np.testing.assert_array_equal(matching.rows(), np.flatnonzero(mask))
        np.testing.assert_array_equal(matching.match(np.arange(size)), mask)
        assert matching.count == mask.sum()


# Minimal scores


def test_what_scores_too_low_is_left_out(large: Large) -> None:
    query = large.queries[0]
    everything = large.searcher.find(query, Wanted(100), None)
    bar = everything.scores[30]
    result = large.searcher.find(query, Wanted(100, min_score=bar), None)
    assert result.scores == [score for score in everything.scores if score >= bar]
    assert large.searcher.find(query, Wanted(100, min_score=1.0), None).rows == []
    assert len(large.searcher.find(query, Wanted(100, min_score=-1.0), None).rows) == 100
    own = large.searcher.find(large.embeddings[5], Wanted(1, min_score=0.9999), None)
    assert own.rows == [5]


# Near-duplicates


def copies_release(tmp_path: pathlib.Path, groups: int, copies: int, shards: int = 1) -> Searcher[Item]:
    """Returns a searcher over `groups` contents, each under `copies` ids: image `i` holds content `i % groups`."""
    embeddings = np.tile(unit_vectors(groups, 16), (copies, 1))
    items = [
        dataclasses.replace(item, sha256=f"{i % groups:064x}") for i, item in enumerate(make_items(groups * copies))
    ]
    release_id = build_release(tmp_path / "root", items=items, embeddings=embeddings, shards=shards)
    return Searcher(open_release(open_store(tmp_path / "root"), release_id), lambda item: item, cached_items=0)


@pytest.mark.parametrize("shards", [1, 2])
def test_identical_content_collapses_at_1(tmp_path: pathlib.Path, shards: int) -> None:
    searcher = copies_release(tmp_path, groups=20, copies=30, shards=shards)
    query = unit_vectors(1, 16, seed=5)[0]
    result = searcher.find(query, Wanted(10, collapse_score=1.0), None)
    items = searcher.load(result.rows)
    plain = searcher.load(searcher.find(query, Wanted(300), None).rows)
    # Of equals the first by id is the best.
    assert [item.item_id for item in items] == [item.item_id for item in plain[::30]]
    assert len({item.sha256 for item in items}) == 10
    for item, (count, rows) in zip(items, result.collapsed, strict=True):
        named = searcher.load(rows)
        assert (count, len(rows)) == (29, 16)
        assert {other.sha256 for other in named} == {item.sha256}
        assert [other.item_id for other in named] == sorted(other.item_id for other in named)
    searcher.release.close()


def test_collapse_returns_all_that_are_distinct(tmp_path: pathlib.Path) -> None:
    searcher = copies_release(tmp_path, groups=7, copies=40)
    result = searcher.find(unit_vectors(1, 16, seed=5)[0], Wanted(10, collapse_score=1.0), 0)
    assert len(result.rows) == 7
    assert sorted(count for count, _ in result.collapsed) == [38] + [39] * 6, "the query itself is not one of them"
    searcher.release.close()


def test_collapse_with_a_filter_and_a_minimal_score(tmp_path: pathlib.Path) -> None:
    searcher = copies_release(tmp_path, groups=10, copies=10)
    query = searcher.release.vectors(np.array([3]))[0]
    wanted = Wanted(5, filter=parse("number >= 50"), collapse_score=1.0)
    result = searcher.find(query, wanted, None)
    assert result.rows[0] == 53 and len(result.rows) == 5
    assert [count for count, _ in result.collapsed] == [4] * 5
    assert result.matching == 50
    only = searcher.find(query, dataclasses.replace(wanted, min_score=0.999), None)
    assert only.rows == [53] and only.collapsed == [(4, [63, 73, 83, 93])]
    searcher.release.close()


@pytest.mark.parametrize("shards", [1, 2])
def test_groups_collapse_across_shards(tmp_path: pathlib.Path, shards: int) -> None:
    """Seven groups of three and one item alone, whatever their embeddings say."""
    items = [
        dataclasses.replace(item, duplicate_group=f"image-{i % 7:04d}.png" if i < 21 else "")
        for i, item in enumerate(make_items(22))
    ]
    release_id = build_release(tmp_path / "root", items=items, embeddings=unit_vectors(22, 8), shards=shards)
    searcher = Searcher(open_release(open_store(tmp_path / "root"), release_id), lambda item: item, cached_items=0)
    query = unit_vectors(1, 8, seed=5)[0]
    found = searcher.find(query, Wanted(22, collapse_groups=True), None)
    every = [item.item_id for item in searcher.load(searcher.find(query, Wanted(22), None).rows)]
    groups: dict[int, list[str]] = {}
    for name in every:
        number = int(name[6:10])
        groups.setdefault(number % 7 if number < 21 else number, []).append(name)
    collapsed = [
        [item.item_id for item in searcher.load([row, *found.collapsed[i][1]])] for i, row in enumerate(found.rows)
    ]
    assert collapsed == list(groups.values())
    assert [count for count, _ in found.collapsed] == [len(names) - 1 for names in groups.values()]
    some = searcher.find(query, Wanted(3, min_score=-0.5, filter=parse("number >= 7"), collapse_groups=True), None)
    left = [[n for n in names if int(n[6:10]) >= 7] for names in groups.values()]
    firsts = sorted((names[0] for names in left if names), key=every.index)[:3]
    assert [item.item_id for item in searcher.load(some.rows)] == firsts
    searcher.release.close()


def test_releases_of_before_there_were_groups_have_none(tmp_path: pathlib.Path) -> None:
    searcher = copies_release(tmp_path, groups=5, copies=4)
    found = searcher.find(unit_vectors(1, 16, seed=5)[0], Wanted(10, collapse_groups=True), None)
    assert len(found.rows) == 5, "identical content is one nevertheless"
    searcher.release.close()


def test_collapse_is_what_brute_force_does(large: Large) -> None:
    for query in large.queries[:5]:
        result = large.searcher.find(query, Wanted(10, collapse_score=0.9), None)
        order = np.array(large.best(query, 2000))
        leaders: list[int] = []
        followers: dict[int, list[int]] = {}
        for row in order.tolist():
            near = [leader for leader in leaders if large.embeddings[leader] @ large.embeddings[row] >= 0.9]
            if near:
                followers[near[0]].append(row)
            elif len(leaders) == 10:
                break
            else:
                leaders.append(row)
                followers[row] = []
        assert result.rows == leaders
        assert [count for count, _ in result.collapsed] == [len(followers[row]) for row in leaders]
        assert [rows for _, rows in result.collapsed] == [followers[row][:16] for row in leaders]


def test_collapse_looks_at_no_more_than_it_may(tmp_path: pathlib.Path) -> None:
    count = MOST_EXAMINED + 100
    embeddings = np.tile(unit_vectors(1, 8), (count, 1))
    embeddings[-1] = -embeddings[0]
    release_id = build_release(tmp_path / "root", items=make_items(count), embeddings=embeddings, golden=())
    searcher = Searcher(open_release(open_store(tmp_path / "root"), release_id), lambda item: item, cached_items=0)
    result = searcher.find(embeddings[0], Wanted(2, collapse_score=0.99), None)
    assert result.rows == [0] and result.collapsed[0][0] == MOST_EXAMINED - 1
    searcher.release.close()


# Items


def test_items_are_remembered_up_to_a_limit(tmp_path: pathlib.Path) -> None:
    release_id = build_release(tmp_path / "root", n=50)
    release, rendered = open_release(open_store(tmp_path / "root"), release_id), []
    searcher = Searcher(release, lambda item: rendered.append(item) or item.item_id, cached_items=10)
    assert searcher.cached([1, 2]) is None
    assert searcher.load([1, 2]) == ["image-0001.png", "image-0002.png"]
    assert searcher.cached([2, 1, 2]) == ["image-0002.png", "image-0001.png", "image-0002.png"]
    assert searcher.load([2, 2, 1]) == ["image-0002.png", "image-0002.png", "image-0001.png"] and len(rendered) == 2
    searcher.load(range(20, 29))
    assert searcher.cached([1]) is None and searcher.cached([2, *range(20, 29)]) is not None
    assert searcher.load(range(50)) == [f"image-{row:04d}.png" for row in range(50)]
    assert searcher.cached(range(40, 50)) and searcher.cached([39]) is None
    release.close()


def test_warming_takes_the_time_of_a_search(large: Large) -> None:
    searcher = Searcher(large.release, lambda item: item.item_id, cached_items=1000)
    assert searcher.seconds == float("inf")
    searcher.warm()
    assert 0 < searcher.seconds < float("inf")
    golden = large.release.embedding(large.release.manifest.golden[0].item_id)
    assert golden is not None
    found = searcher.find(golden, Wanted(10), None).rows
    assert searcher.cached(found) == [item.item_id for item in large.release.items(found)]


def test_many_threads_filter_and_collapse(large: Large) -> None:
    filter_ = parse("`random 0.05` = true or number in (1, 2, 3)")
    expected = large.searcher.find(large.queries[0], Wanted(10, filter=filter_, collapse_score=0.95), None)
    fresh: Searcher[Item] = Searcher(large.release, lambda item: item, cached_items=5)
    results = []

    def work() -> None:
        for _ in range(20):
            result = fresh.find(large.queries[0], Wanted(10, filter=filter_, collapse_score=0.95), None)
            assert [item.item_id for item in fresh.load(result.rows)]
            results.append(result)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 80


def test_comparisons_on_the_items_own_fields(large: Large) -> None:
    heights = 16 + np.arange(COUNT) % 3
    ids = np.array([item.item_id for item in make_items(COUNT)])
    for text, mask in (
        ("height > 16", heights > 16),
        ("width = 16 and height != 17.0", heights != 17),
        ("height in (18, 99)", heights == 18),
        ('item_id < "image-0100.png"', ids < "image-0100.png"),
        ('item_id in ("image-0007.png", "nobody")', ids == "image-0007.png"),
    ):
        np.testing.assert_array_equal(filters.matches(parse(text), large.release.where), mask)
