"""A release and its overlay, searched as one collection: against brute force over what the collection then is."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from serving.index import IndexParameters
from serving.journal.clock import Stamp
from serving.journal.entry import Entry, Tombstone, Upsert
from serving.release.items import Item
from serving.release.reader import open_release
from serving.search import overlay_builder
from serving.search.collapse import Content, Owners, collapse, collapse_groups
from serving.search.filter_language import parse
from serving.search.overlay_builder import OverlayBuilder
from serving.search.searcher import Searcher
from serving.search.view import MOST_NAMED, Found, View, Wanted
from serving.storage import open_store
from tests.serving.release_builder import build_release, make_items, png, unit_vectors

COUNT, DIMENSION = 60, 8
# Few, so that many items score exactly the same and ids must decide.
VECTORS = unit_vectors(7, DIMENSION, seed=5)
IDS = (
    [item.item_id for item in make_items(COUNT)[:20]]
    + [f"a new {i}" for i in range(6)]
    + [f"z new {i}" for i in range(6)]
)
FILTERS = {
    "": lambda item: True,
    'label = "3"': lambda item: item.attributes.get("label") == "3",
    "number < 12": lambda item: item.attributes.get("number", 99) < 12,
    "not number < 12": lambda item: not item.attributes.get("number", 99) < 12,
    "height > 16": lambda item: item.height > 16,
    'item_id >= "b"': lambda item: item.item_id >= "b",
    'label = "nobody has it"': lambda item: False,
}
Collection = dict[str, tuple[Item, np.ndarray]]


@dataclasses.dataclass
class Case:
    """A release, and what it holds."""

    release: Any = dataclasses.field(repr=False)
    base: Collection = dataclasses.field(repr=False)

    def searcher(self) -> Searcher[Item]:
        return Searcher(self.release, lambda item: item, cached_items=30)


@pytest.fixture(scope="module", params=["brute_force", "exact"])
def case(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Case]:
    root = tmp_path_factory.mktemp("merged") / "root"
    items = [
        dataclasses.replace(item, thumbnail=b"", duplicate_group=f"image-{i % 7:04d}.png" if i % 3 else "")
        for i, item in enumerate(make_items(COUNT))
    ]
    embeddings = VECTORS[np.arange(COUNT) % len(VECTORS)]
    parameters = IndexParameters(request.param)
    release_id = build_release(root, items=items, embeddings=embeddings, shards=2, parameters=parameters)
    release = open_release(open_store(root), release_id)
    with pytest.MonkeyPatch.context() as patch:
        # So that rows of items that are gone are left behind now and then.
        patch.setattr(overlay_builder, "_DEAD_ROWS", 5)
        yield Case(release, {i.item_id: (i, e) for i, e in zip(items, embeddings, strict=True)})
    release.close()


def upsert(digest: str, item_id: str, vector: int, number: int) -> Upsert:
    image = png(number % 5)
    attributes = {"label": str(number % 5), "number": number}
    return Upsert(
        item_id, image, f"{100 + number % 3:064x}", 16, 16 + number % 3, "", attributes, VECTORS[vector], digest
    )


changes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(IDS), st.integers(0, len(VECTORS) - 1), st.integers(0, 30)),
        st.tuples(st.sampled_from(IDS), st.none(), st.none()),
    ),
    max_size=40,
)


def applied(base: Collection, entries: list[Entry]) -> Collection:
    collection = dict(base)
    for entry in sorted(entries, key=lambda entry: entry.stamp):
        change = entry.change
        collection.pop(change.item_id, None)
        if isinstance(change, Upsert):
            assert change.embedding is not None
            item = Item(change.item_id, change.uri, change.sha256, change.width, change.height, dict(change.attributes))
            collection[change.item_id] = item, change.embedding
    return collection


def expected(collection: Collection, vector: np.ndarray, wanted: Wanted, text: str, exclude: str | None) -> list[Any]:
    scored = [
        (float(np.add.reduce(embedding * vector).clip(-1, 1)), item.item_id)
        for item, embedding in collection.values()
        if FILTERS[text](item) and item.item_id != exclude
    ]
    if wanted.min_score is not None:
        scored = [pair for pair in scored if pair[0] >= np.float32(wanted.min_score)]
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
    if wanted.collapse_score is None and not wanted.collapse_groups:
        return [(name, score) for score, name in best[: wanted.k]]
    owners = owners_of([collection[name] for _, name in best], wanted)
    leaders = [place for place, owner in enumerate(owners) if owner == place]
    others = [[best[i][1] for i in np.flatnonzero(owners == leader) if i != leader] for leader in leaders]
    return [
        (best[leader][1], best[leader][0], len(named), named[:MOST_NAMED])
        for leader, named in zip(leaders, others, strict=True)
    ]


def owners_of(best: list[tuple[Item, np.ndarray]], wanted: Wanted) -> Owners:
    if wanted.collapse_groups:
        return collapse_groups([Content(item.duplicate_group, item.sha256) for item, _ in best], wanted.k)
    vectors = np.stack([vector for _, vector in best]) if best else np.zeros((0, DIMENSION), np.float32)
    return collapse(vectors, wanted.collapse_score or 1.0, wanted.k)


def got(view: View[Item], found: Found) -> list[Any]:
    items = view.load(found.rows)
    assert items == view.items(found.rows)
    assert view.cached(found.rows) in (None, items)
    named = [item.item_id for item in items]
    if not found.collapsed:
        return list(zip(named, found.scores, strict=True))
    others = [[item.item_id for item in view.items(rows)] for _, rows in found.collapsed]
    return list(zip(named, found.scores, [count for count, _ in found.collapsed], others, strict=True))


@hypothesis.settings(
    max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    changes,
    st.randoms(use_true_random=False),
    st.integers(0, len(VECTORS) - 1),
    st.integers(1, 70),
    st.sampled_from([None, -1.0, 0.0, 0.4]),
    st.sampled_from(sorted(FILTERS)),
    st.sampled_from([None, None, 1.0, 0.5, "groups"]),
    st.sampled_from([None, *IDS]),
)
def test_the_merged_collection_is_searched_as_one(
    case: Case, made: Any, random: Any, query: int, k: int, min_score: Any, text: str, collapse_score: Any, by: Any
) -> None:
    digest = case.release.manifest.encoder.digest
    entries = [
        Entry(Stamp(1000 + i, 0, "w"), Tombstone(name) if vector is None else upsert(digest, name, vector, number))
        for i, (name, vector, number) in enumerate(made)
    ]
    searcher = case.searcher()
    builder = OverlayBuilder(searcher, lambda item: item)
    # In any order, in any groups, some of them twice.
    shuffled = entries + entries[::3]
    random.shuffle(shuffled)
    cut = random.randint(0, len(shuffled))
    assert builder.add(shuffled[:cut]) == []
    before, earlier = searcher.view, applied(case.base, shuffled[:cut])
    assert builder.add(shuffled[cut:]) == []
    for view, collection in ((searcher.view, applied(case.base, entries)), (before, earlier)):
        assert set(view.rows_of([*IDS, "nobody"])) == {name for name in IDS if name in collection}
        vector, exclude = VECTORS[query], None
        if by is not None and by in collection:
            exclude = view.rows_of([by])[by]
            vector = view.vectors(np.array([exclude]))[0]
            np.testing.assert_array_equal(vector, collection[by][1])
        by_groups = collapse_score == "groups"
        filter_ = parse(text) if text else None
        wanted = Wanted(k, min_score, filter_, None if by_groups else collapse_score, by_groups)
        found = view.find(vector, wanted, exclude)
        assert got(view, found) == expected(collection, vector, wanted, text, by if exclude is not None else None)
        matching = sum(FILTERS[text](item) for item, _ in collection.values())
        assert found.matching == (matching if text else None)
