"""Which of an item's changes count beside a release."""

import gc
import pathlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.journal.clock import Stamp
from serving.journal.entry import Entry, Tombstone
from serving.journal.state import fold
from serving.journal.writer import JournalWriter
from serving.release.reader import open_release
from serving.search.overlay_builder import OverlayBuilder
from serving.search.searcher import Searcher
from serving.storage import open_store
from tests.serving.journal.changes import upsert
from tests.serving.release_builder import build_release, unit_vectors

VECTORS = unit_vectors(8, 8, seed=3)
LATE = 4_000_000_000_000


@pytest.fixture
def release(tmp_path: pathlib.Path) -> Iterator[Any]:
    """A release of 50 items that holds one tombstone."""
    store = open_store(tmp_path / "root")
    JournalWriter(store).append([Tombstone("image-9999.png")])
    state = tmp_path / "state.sqlite"
    folded = fold(store, None, {}, state)
    release = open_release(store, build_release(tmp_path / "root", updates=state, watermark=folded.watermark))
    yield release
    release.close()


@pytest.fixture
def builder(release: Any) -> OverlayBuilder[Any]:
    return OverlayBuilder(Searcher(release, lambda item: item, cached_items=10), lambda item: item)


def entry(milliseconds: int, change: Any) -> Entry:
    return Entry(Stamp(milliseconds, 0, "w" * 32), change)


def ours(builder: OverlayBuilder[Any], name: str, vector: int = 0) -> Any:
    digest = builder.searcher.release.manifest.encoder.digest
    return upsert(name, vector, embedding=VECTORS[vector], encoder_digest=digest)


def shown(builder: OverlayBuilder[Any], name: str) -> Any:
    view = builder.searcher.view
    row = view.rows_of([name]).get(name)
    return None if row is None else view.items([row])[0].attributes.get("number")


def test_a_change_before_what_the_release_holds_does_not_count(builder: OverlayBuilder[Any]) -> None:
    builder.add([entry(1, ours(builder, "image-9999.png"))])
    assert shown(builder, "image-9999.png") is None
    assert builder.searcher.view is builder.searcher
    assert builder.stamp("image-9999.png") > Stamp(1, 0, "")
    builder.add([entry(LATE, ours(builder, "image-9999.png", 5))])
    assert shown(builder, "image-9999.png") == 5
    assert builder.stamp("image-9999.png") == Stamp(LATE, 0, "w" * 32)
    assert builder.stamp("nobody") is None


def test_by_another_encoder_it_is_hidden_until_it_is_embedded(builder: OverlayBuilder[Any]) -> None:
    first, second = entry(1, upsert("image-0003.png", 4)), entry(2, upsert("new", 5))
    assert builder.add([first, second]) == [first, second]
    assert (builder.count, builder.hidden, builder.missing) == (0, 1, 2)
    assert shown(builder, "image-0003.png") is None
    # Meanwhile one of them was changed again.
    builder.add([entry(3, Tombstone("new"))])
    assert [builder.wants(e) for e in (first, second)] == [True, False]
    builder.embed([first, second], {0: VECTORS[0], 1: VECTORS[1]})
    assert (shown(builder, "image-0003.png"), shown(builder, "new")) == (4, None)
    assert (builder.count, builder.hidden, builder.missing) == (1, 1, 0)


def test_an_embedding_that_is_none_spoils_nothing_else(builder: OverlayBuilder[Any]) -> None:
    digest = builder.searcher.release.manifest.encoder.digest
    bad = [
        upsert("zero", 1, embedding=np.zeros(8, np.float32), encoder_digest=digest),
        upsert("short", 1, embedding=np.ones(7, np.float32), encoder_digest=digest),
        upsert("nan", 1, embedding=np.full(8, np.nan, np.float32), encoder_digest=digest),
    ]
    changes = [*bad, ours(builder, "good", 2)]
    assert builder.add([entry(i, change) for i, change in enumerate(changes)]) == []
    assert (builder.count, builder.missing) == (1, 3)
    assert shown(builder, "good") == 2


def test_what_is_purged_stays_nowhere_in_memory(builder: OverlayBuilder[Any]) -> None:
    builder.add([entry(1, ours(builder, "secret", 7)), entry(2, ours(builder, "other", 6))])
    builder.add([entry(3, Tombstone("secret"))])
    assert [item.item_id for item in builder._rows.items] == ["secret", "other"]
    builder.add([entry(4, Tombstone("secret", purge=True))])
    assert [item.item_id for item in builder._rows.items] == ["other"]
    assert shown(builder, "other") == 6


def test_what_is_closed_is_freed_at_once(tmp_path: pathlib.Path) -> None:
    """Its memory is that of a release: the next one must not wait for Python to look for cycles."""
    release = open_release(open_store(tmp_path / "root"), build_release(tmp_path / "root"))
    builder = OverlayBuilder(Searcher(release, lambda item: item, cached_items=10), lambda item: item)
    builder.add([entry(1, ours(builder, "new"))])
    assert builder.searcher.view is not builder.searcher
    freed = weakref.ref(builder.searcher)
    gc.disable()
    try:
        builder.searcher.close()
        del builder
        assert freed() is None
    finally:
        gc.enable()


def test_who_took_a_view_goes_on_seeing_the_same(builder: OverlayBuilder[Any]) -> None:
    views = [builder.searcher.view]
    for i in range(3000):
        builder.add([entry(i, ours(builder, f"new-{i % 7}", i % 8))])
        if i % 500 == 0:
            views.append(builder.searcher.view)
    assert [len(view.rows_of([f"new-{n}" for n in range(7)])) for view in views] == [0, 1, *[7] * 5]
    [row] = views[2].rows_of(["new-3"]).values()
    # 500 was the last of its own item; of new-3 it was 500 - 500 % 7 + 3 - 7 at the latest.
    assert views[2].items([row])[0].attributes["number"] == (500 - (500 - 3) % 7) % 8
    assert builder.count == 7
