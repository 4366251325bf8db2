import pathlib
import uuid
from collections.abc import Iterator

import pytest

from serving.journal.reader import JournalReader, heads, read_from, read_segment
from serving.journal.segment import SegmentDamaged
from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.storage import LocalStore, Store, open_store
from tests.serving.journal.changes import delete, upsert


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    store = open_store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def write(store: Store, *names: str) -> JournalWriter:
    """Appends a delete of each, a segment for each; returns their writer."""
    journal = JournalWriter(store)
    for name in names:
        journal.append([delete(name)])
    return journal


def names(entries: object) -> list[str]:
    return [entry.change.item_id for entry in entries]  # type: ignore[attr-defined]


def flip(store: Store, path: str) -> None:
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.write(path, bytes(data))


def test_an_empty_root(store: Store) -> None:
    reader = JournalReader(store, {})
    assert reader.poll() == []
    assert reader.heads == heads(store) == {}


def test_a_poll_returns_what_is_new(store: Store) -> None:
    reader = JournalReader(store, {})
    first = write(store, "a", "b")
    assert names(reader.poll()) == ["a", "b"]
    assert reader.poll() == []
    first.append([delete("c")])
    second = write(store, "d")
    assert sorted(names(reader.poll())) == ["c", "d"]
    assert reader.heads == heads(store) == {first.writer_id: 3, second.writer_id: 1}


def test_entries_of_several_writers_come_in_the_order_of_their_stamps(store: Store) -> None:
    writers = [JournalWriter(store) for _ in range(3)]
    for number in range(9):
        writers[number % 3].append([delete(f"{number}")])
    stamps = [entry.stamp for entry in JournalReader(store, {}).poll()]
    assert len(stamps) == 9
    assert stamps == sorted(stamps)


def test_a_reader_begins_after_the_watermark(store: Store) -> None:
    first = write(store, "a", "b", "c")
    second = write(store, "d")
    assert names(read_from(store, {first.writer_id: 2, second.writer_id: 1})) == ["c"]
    assert sorted(names(JournalReader(store, {first.writer_id: 2}).poll())) == ["c", "d"]


def test_what_a_gap_hides_is_not_read(store: Store) -> None:
    journal = write(store, "a", "b", "c")
    lost = store.read(layout.segment_file(journal.writer_id, 2))
    store.delete(layout.segment_file(journal.writer_id, 2))
    reader = JournalReader(store, {})
    assert names(reader.poll()) == ["a"]
    store.write(layout.segment_file(journal.writer_id, 2), lost)
    assert names(reader.poll()) == ["b", "c"]


def test_a_writer_whose_first_segments_were_pruned(store: Store) -> None:
    journal = write(store, "a", "b", "c")
    for seq in (1, 2):
        store.delete(layout.segment_file(journal.writer_id, seq))
    reader = JournalReader(store, {})
    assert names(reader.poll()) == ["c"]
    journal.append([delete("d")])
    assert names(reader.poll()) == ["d"]


def test_what_is_no_segment_is_left_alone(store: Store) -> None:
    journal = write(store, "a")
    store.write("journal/notes/readme.txt", b"not ours")
    store.write(f"{layout.writer_folder(journal.writer_id)}/1.segment.bak", b"not ours")
    assert names(JournalReader(store, {}).poll()) == ["a"]
    assert heads(store) == {journal.writer_id: 1}


def test_a_damaged_segment_stops_its_writer_and_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    first = write(store, "a", "b", "c")
    path = layout.segment_file(first.writer_id, 2)
    good = store.read(path)
    flip(store, path)
    second = write(store, "d")
    reader = JournalReader(store, {})
    assert sorted(names(reader.poll())) == ["a", "d"]
    assert reader.poll() == []
    assert caplog.text.count("is damaged") == 1  # said once
    assert f"{store.uri}/{path}" in reader.damaged[first.writer_id]
    second.append([delete("e")])
    assert names(reader.poll()) == ["e"]
    store.write(path, good)
    assert names(reader.poll()) == ["b", "c"]
    assert reader.damaged == {}
    assert "is well again" in caplog.text


def test_a_damaged_segment_is_named(store: Store) -> None:
    journal = write(store, "a")
    path = layout.segment_file(journal.writer_id, 1)
    flip(store, path)
    with pytest.raises(SegmentDamaged, match=rf"{path} is damaged: its \d+ bytes are not those"):
        read_segment(store, journal.writer_id, 1)


def test_a_segment_of_another_writer_is_damaged(store: Store) -> None:
    journal = write(store, "a")
    other = "f" * 32
    store.write(layout.segment_file(other, 1), store.read(layout.segment_file(journal.writer_id, 1)))
    reader = JournalReader(store, {})
    assert names(reader.poll()) == ["a"]
    assert f"holds changes of writer {journal.writer_id}" in reader.damaged[other]


class Away(LocalStore):
    """A store that can't be read for a while."""

    away = ""

    def read(self, path: str) -> bytes:
        if self.away and path.endswith(self.away):
            raise TimeoutError("away")
        return super().read(path)


def test_what_was_read_before_the_store_went_away_is_not_lost(tmp_path: pathlib.Path) -> None:
    store = Away(tmp_path)
    write(store, "a", "b", "c")
    reader = JournalReader(store, {})
    store.away = f"{2:020d}.segment"
    with pytest.raises(TimeoutError):
        reader.poll()
    store.away = ""
    assert names(reader.poll()) == ["a", "b", "c"]


def test_an_upsert_is_read_with_its_image(store: Store) -> None:
    change = upsert("a", 3)
    JournalWriter(store).append([change])
    assert [entry.change for entry in JournalReader(store, {}).poll()] == [change]
