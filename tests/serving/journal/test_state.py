import contextlib
import pathlib
import random
import shutil
import sqlite3
import uuid
from collections.abc import Iterator

import pytest

from serving.journal.clock import HybridClock
from serving.journal.contents import ContentDamaged, Contents
from serving.journal.entry import Entry, Upsert
from serving.journal.segment import to_bytes
from serving.journal.state import Folded, UpdatesState, fold
from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.storage import Store, open_store
from tests.serving.journal.changes import delete, upsert
from tests.serving.killed import killed_at_every_change


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    store = open_store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def folded(
    store: Store, target: pathlib.Path, base: pathlib.Path | None = None, watermark: dict[str, int] | None = None
) -> tuple[Folded, UpdatesState]:
    result = fold(store, base, watermark or {}, target)
    state = UpdatesState(target)
    assert (result.upserts, result.tombstones) == (state.upsert_count, state.tombstone_count)
    return result, state


def contents(store: Store) -> list[str]:
    return [stat.path.rpartition("/")[2] for stat in store.files(layout.CONTENTS)]


def test_no_journal_is_an_empty_state(store: Store, tmp_path: pathlib.Path) -> None:
    result, state = folded(store, tmp_path / "state.sqlite")
    assert result == Folded({}, 0, 0)
    assert list(state) == []
    assert state.newest() is None


def test_the_last_change_of_an_item_counts(store: Store, tmp_path: pathlib.Path) -> None:
    journal = JournalWriter(store)
    journal.append([upsert("a", 1), upsert("b", 2), upsert("c", 3)])
    journal.append([delete("a"), upsert("b", 4), delete("d")])
    last = journal.append([upsert("e", 5), delete("e"), upsert("d", 6)])
    result, state = folded(store, tmp_path / "state.sqlite")
    assert result.watermark == {journal.writer_id: 3}
    assert [(item.item_id, item.sha256) for item in state.upserts()] == [
        ("b", upsert("b", 4).sha256),
        ("c", upsert("c", 3).sha256),
        ("d", upsert("d", 6).sha256),
    ]
    assert [item.item_id for item in state.tombstones()] == ["a", "e"]
    assert len(state) == 5
    newest = state.newest()
    assert newest is not None
    assert newest.stamp == last[-1].stamp


def test_a_state_says_all_that_the_upsert_did(store: Store, tmp_path: pathlib.Path) -> None:
    change = upsert("a", 1)
    [entry] = JournalWriter(store).append([change])
    found = folded(store, tmp_path / "state.sqlite")[1].get("a")
    assert found is not None
    assert (found.stamp, found.deleted, found.purged) == (entry.stamp, False, None)
    assert (found.sha256, found.uri, found.width, found.height) == (change.sha256, change.uri, 16, 16)
    assert found.attributes == change.attributes
    assert [type(found.attributes[name]) for name in ("label", "number", "half", "even")] == [str, int, float, bool]


def test_images_of_live_upserts_are_saved_and_no_others(store: Store, tmp_path: pathlib.Path) -> None:
    journal = JournalWriter(store)
    journal.append([upsert("a", 1), upsert("b", 2), upsert("c", 3), upsert("same as c", 3)])
    journal.append([delete("a"), upsert("b", 4)])
    fold(store, None, {}, tmp_path / "state.sqlite")
    assert contents(store) == sorted([upsert("b", 4).sha256, upsert("c", 3).sha256])
    assert Contents(store).get(upsert("b", 4).sha256) == upsert("b", 4).image


def test_stamps_decide_and_not_the_order_of_segments(store: Store, tmp_path: pathlib.Path) -> None:
    early = JournalWriter(store, "b" * 32, clock=HybridClock("b" * 32, lambda: 5))
    late = JournalWriter(store, "a" * 32, clock=HybridClock("a" * 32, lambda: 9))
    late.append([delete("x")])
    early.append([upsert("x", 1)])
    late.append([upsert("y", 2)])
    early.append([delete("y")])
    _, state = folded(store, tmp_path / "state.sqlite")
    assert [item.item_id for item in state.tombstones()] == ["x"]
    assert [item.item_id for item in state.upserts()] == ["y"]


def test_the_writer_decides_between_equal_times(store: Store, tmp_path: pathlib.Path) -> None:
    for writer, change in (("b", upsert("x", 1)), ("a", delete("x"))):
        clock = HybridClock(writer * 32, lambda: 5)
        JournalWriter(store, writer * 32, clock=clock).append([change])
    assert [item.item_id for item in folded(store, tmp_path / "state.sqlite")[1].upserts()] == ["x"]


def test_folding_in_steps_is_folding_at_once(store: Store, tmp_path: pathlib.Path) -> None:
    chance = random.Random(7)
    writers = [JournalWriter(store) for _ in range(2)]
    base, watermark, step = None, {}, 0
    for step in range(4):
        for _ in range(10):
            name = f"item-{chance.randrange(8)}"
            change = chance.choice([upsert(name, chance.randrange(20)), delete(name, purge=chance.random() < 0.3)])
            chance.choice(writers).append([change])
        target = tmp_path / f"{step}.sqlite"
        watermark = fold(store, base, watermark, target).watermark
        base = target
    result = fold(store, None, {}, tmp_path / "at-once.sqlite")
    assert base is not None
    assert base.read_bytes() == (tmp_path / "at-once.sqlite").read_bytes()
    assert result.watermark == watermark


def test_nothing_new_is_the_same_bytes(store: Store, tmp_path: pathlib.Path) -> None:
    JournalWriter(store).append([upsert("a", 1), delete("b", purge=True)])
    first, _ = folded(store, tmp_path / "first.sqlite")
    second, _ = folded(store, tmp_path / "second.sqlite", tmp_path / "first.sqlite", first.watermark)
    assert first == second
    assert (tmp_path / "first.sqlite").read_bytes() == (tmp_path / "second.sqlite").read_bytes()


def test_a_purge_is_remembered_when_the_item_comes_back(store: Store, tmp_path: pathlib.Path) -> None:
    journal = JournalWriter(store)
    asked = journal.append([upsert("a", 1), delete("a", purge=True), delete("b", purge=True), delete("b")])
    journal.append([upsert("a", 2)])
    _, state = folded(store, tmp_path / "state.sqlite")
    assert [(item.item_id, item.deleted, item.purged) for item in state.purges()] == [
        ("a", False, asked[1].stamp),
        ("b", True, asked[2].stamp),
    ]


def test_a_damaged_segment_is_not_passed(store: Store, tmp_path: pathlib.Path) -> None:
    journal = JournalWriter(store)
    for name in "abc":
        journal.append([delete(name)])
    path = layout.segment_file(journal.writer_id, 2)
    good = store.read(path)
    store.write(path, good[:-1])
    result, state = folded(store, tmp_path / "first.sqlite")
    assert result.watermark == {journal.writer_id: 1}
    assert [item.item_id for item in state] == ["a"]
    store.write(path, good)
    result, state = folded(store, tmp_path / "second.sqlite", tmp_path / "first.sqlite", result.watermark)
    assert result.watermark == {journal.writer_id: 3}
    assert [item.item_id for item in state] == ["a", "b", "c"]


def test_a_state_is_read_in_batches(store: Store, tmp_path: pathlib.Path) -> None:
    journal = JournalWriter(store)
    names = [f"item-{number:05d}" for number in range(2500)]
    journal.append([delete(name) for name in names])
    _, state = folded(store, tmp_path / "state.sqlite")
    assert [item.item_id for item in state] == names
    assert state.get(names[1234]) is not None
    assert state.get("nothing") is None


def test_an_empty_state_needs_no_file() -> None:
    with contextlib.closing(UpdatesState(None)) as state:
        assert (len(state), state.get("a"), list(state.upserts())) == (0, None, [])


def test_what_is_no_state_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        UpdatesState(tmp_path / "nothing")
    (tmp_path / "text").write_text("not a database, whatever it is called")
    with pytest.raises(sqlite3.DatabaseError):
        UpdatesState(tmp_path / "text")


def test_killed_while_folding(tmp_path: pathlib.Path) -> None:
    root, target = tmp_path / "root", tmp_path / "out" / "state.sqlite"
    store = open_store(root)
    journal = JournalWriter(store)
    journal.append([upsert("a", 1), upsert("b", 2)])
    shutil.copytree(root, tmp_path / "kept")
    want = tmp_path / "want.sqlite"
    fold(open_store(tmp_path / "kept"), None, {}, want)
    for said in killed_at_every_change(tmp_path, lambda: fold(open_store(root), None, {}, target)):
        assert not target.exists() or target.read_bytes() == want.read_bytes(), said
    assert target.read_bytes() == want.read_bytes()
    assert len(contents(store)) == 2


def test_contents_are_what_their_name_says(store: Store) -> None:
    image = upsert("a", 1)
    kept = Contents(store)
    kept.put(image.sha256, image.image)
    kept.put(image.sha256, image.image)
    assert kept.get(image.sha256) == image.image
    with pytest.raises(ContentDamaged, match="holds 5 bytes"):
        kept.put(image.sha256, b"other")
    store.write(kept.path(image.sha256), b"other")
    with pytest.raises(ContentDamaged, match="holds 5 bytes"):
        kept.get(image.sha256)
    kept.delete(image.sha256)
    with pytest.raises(FileNotFoundError):
        kept.get(image.sha256)
    with pytest.raises(ValueError, match="sha256 must match"):
        kept.path("../../etc/passwd")


def test_an_entry_that_was_rewritten_as_a_tombstone_changes_nothing_later(store: Store, tmp_path: pathlib.Path) -> None:
    journal = JournalWriter(store)
    [old] = journal.append([upsert("a", 1)])
    journal.append([delete("a", purge=True)])
    journal.append([upsert("a", 2)])
    first, _ = folded(store, tmp_path / "first.sqlite")
    store.write(layout.segment_file(journal.writer_id, 1), to_bytes([Entry(old.stamp, delete("a", purge=True))]))
    second, _ = folded(store, tmp_path / "second.sqlite")
    assert (tmp_path / "first.sqlite").read_bytes() == (tmp_path / "second.sqlite").read_bytes()
    assert first == second
    assert isinstance(old.change, Upsert)
