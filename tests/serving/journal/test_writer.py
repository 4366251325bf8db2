import pathlib
import shutil
import threading
import uuid
from collections.abc import Iterator

import pytest

from serving.journal import segment, writer
from serving.journal.clock import MAX_AHEAD_MILLISECONDS, ClockAhead, HybridClock, Stamp, wall_milliseconds
from serving.journal.entry import Entry
from serving.journal.reader import heads, read_from
from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.release.debris import clean_debris
from serving.storage import LocalStore, Store, open_store
from tests.serving.journal.changes import delete, upsert
from tests.serving.killed import killed_at_every_change


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    store = open_store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def test_what_is_appended_is_there(store: Store) -> None:
    journal = JournalWriter(store)
    first = journal.append([upsert("a", 1), delete("b")])
    second = journal.append([delete("a")])
    assert [entry.change for entry in first] == [upsert("a", 1), delete("b")]
    assert first[0].stamp < first[1].stamp < second[0].stamp
    assert list(read_from(store, {})) == first + second
    assert [stat.path for stat in store.files("")] == [
        layout.segment_file(journal.writer_id, 1),
        layout.segment_file(journal.writer_id, 2),
    ]


def test_nothing_is_appended_as_nothing(store: Store) -> None:
    assert JournalWriter(store).append([]) == []
    assert heads(store) == {}


def test_every_process_writes_under_an_id_of_its_own(store: Store) -> None:
    assert JournalWriter(store).writer_id != JournalWriter(store).writer_id


def test_a_writer_goes_on_where_its_id_left_off(store: Store) -> None:
    first = JournalWriter(store)
    first.append([delete("a")])
    JournalWriter(store, first.writer_id).append([delete("b")])
    assert heads(store) == {first.writer_id: 2}


def test_a_wrong_writer_id(store: Store) -> None:
    with pytest.raises(ValueError, match="writer id must match"):
        JournalWriter(store, "../../etc")


def test_a_large_group_is_split(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [upsert(f"item-{i}", i) for i in range(5)]
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 2 * segment.size_of(changes[0]))
    journal = JournalWriter(store)
    entries = journal.append(changes)
    assert heads(store) == {journal.writer_id: 3}
    assert list(read_from(store, {})) == entries


def test_a_wrong_image_leaves_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="another sha256"):
        JournalWriter(store).append([delete("a"), upsert("b", sha256="0" * 64)])
    assert list(store.files("")) == []


def test_threads_append_without_gaps(store: Store) -> None:
    journal = JournalWriter(store)

    def work(name: str) -> None:
        for number in range(5):
            journal.append([delete(f"{name}-{number}")])

    threads = [threading.Thread(target=work, args=(f"thread-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = list(read_from(store, {}))
    assert len(entries) == 20
    assert entries == sorted(entries, key=lambda entry: entry.stamp)


def test_what_is_appended_is_later_than_what_was_observed(store: Store) -> None:
    soon = Stamp(wall_milliseconds() + MAX_AHEAD_MILLISECONDS // 2, 0, "f" * 32)
    journal = JournalWriter(store)
    journal.observe([Entry(soon, upsert("a"))])
    assert journal.append([delete("a")])[0].stamp > soon


def test_an_item_from_the_future_is_refused_and_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    now = [1_000_000]
    journal = JournalWriter(store, clock=HybridClock("a" * 32, lambda: now[0]))
    future = Stamp(now[0] + MAX_AHEAD_MILLISECONDS + 1, 0, "f" * 32)
    journal.observe([Entry(future, upsert("a"))])
    assert "Changes of 'a' are refused until then" in caplog.text
    with pytest.raises(ClockAhead, match="ahead of ours"):
        journal.append([delete("b"), delete("a")])
    journal.append([delete("b")])
    now[0] += 2  # by then it is believed
    assert journal.append([delete("a")])[0].stamp > future


class Unsure(LocalStore):
    """Writes, and once raises nevertheless, as a bucket does whose answer is lost."""

    lost = False

    def create(self, path: str, data: bytes) -> None:
        super().create(path, data)
        if not self.lost:
            self.lost = True
            raise TimeoutError("no answer")


def test_after_an_answer_that_was_lost_there_is_no_gap(tmp_path: pathlib.Path) -> None:
    store = Unsure(tmp_path)
    journal = JournalWriter(store)
    with pytest.raises(TimeoutError):
        journal.append([delete("a")])
    journal.append([delete("a")])
    assert heads(store) == {journal.writer_id: 2}
    assert [entry.change.item_id for entry in read_from(store, {})] == ["a", "a"]


def test_a_folder_that_was_pruned_meanwhile_is_made_again(tmp_path: pathlib.Path) -> None:
    store = open_store(tmp_path)
    journal = JournalWriter(store)
    journal.append([delete("a")])
    store.delete(layout.segment_file(journal.writer_id, 1))
    store.delete_empty(layout.writer_folder(journal.writer_id))
    assert not (tmp_path / layout.writer_folder(journal.writer_id)).exists()
    entries = journal.append([delete("b")])
    assert list(read_from(store, {})) == entries


def test_killed_while_appending(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    deaths = 0
    for said in killed_at_every_change(
        root, lambda: JournalWriter(open_store(root)).append([upsert("a"), delete("b")])
    ):
        found = [entry.change for entry in read_from(open_store(root), {})]
        assert found in ([], [upsert("a"), delete("b")]), said
        clean_debris(open_store(root), now=1e11)
        assert not list(root.rglob("*.tmp")), said
        shutil.rmtree(root, ignore_errors=True)
        deaths += 1
    assert deaths > 3
    assert len(list(read_from(open_store(root), {}))) == 2
