"""A serving root that is copied and restored elsewhere answers as it did."""

import contextlib
import json
import pathlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from serving.cli import main
from serving.release import layout
from serving.release.backup import CopyRefused, back_up, restore
from serving.release.current import read_current
from serving.release.lease import LeaseHeld, hold_lease
from serving.release.purge import purge
from serving.release.reader import open_release
from serving.release.retention import list_releases, prune
from serving.storage import Store, open_store
from tests.serving.journal.changes import delete, upsert
from tests.serving.killed import killed_at_every_change
from tests.serving.release_builder import unit_vectors
from tests.serving.updated_root import DIMENSION, UpdatedRoot

Place = Callable[[str], Store]


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Place]:
    """Returns where something lies, by its name."""
    unique = uuid.uuid4().hex
    names = []

    def place(name: str) -> Store:
        names.append(name)
        return open_store(tmp_path / name if request.param == "local" else f"memory://{unique}-{name}")

    yield place
    for name in set(names):
        place(name).delete("")


@pytest.fixture
def root(place: Place, tmp_path: pathlib.Path) -> UpdatedRoot:
    """A root of two releases, with changes in the second and others beyond it."""
    root = UpdatedRoot(place("root").uri, tmp_path / "work")
    root.reindex()
    root.append(upsert("a.png", 2), upsert("b.png", 3), delete("file-1.png"))
    root.reindex()
    root.append(upsert("c.png", 4), delete("a.png"))
    return root


def everything(store: Store) -> dict[str, bytes]:
    skipped = (layout.LEASE, layout.REINDEX)
    return {s.path: store.read(s.path) for s in store.files("") if not s.path.startswith(skipped)}


def answers(store: Store, cache: pathlib.Path) -> list[list[tuple[str, float]]]:
    """Returns what the current release answers to some queries."""
    with contextlib.closing(open_release(store, str(read_current(store)), cache=cache)) as release:
        found = [release.search(vector, 10) for vector in unit_vectors(20, DIMENSION, 5)]
    return [[(neighbor.item.item_id, neighbor.score) for neighbor in neighbors] for neighbors in found]


def elsewhere(root: UpdatedRoot, store: Store, work: pathlib.Path) -> UpdatedRoot:
    other = UpdatedRoot(store.uri, work)
    other.folder = root.folder
    return other


def test_what_is_restored_elsewhere_answers_the_same(root: UpdatedRoot, place: Place, tmp_path: pathlib.Path) -> None:
    copied = back_up(root.store, place("backup"), holder="test")
    assert (copied.release_id, copied.problems) == (read_current(root.store), ())
    restored = restore(place("backup"), place("other"))
    assert (restored.files, restored.size, restored.problems) == (copied.files, copied.size, ())
    assert everything(place("other")) == everything(root.store)
    assert answers(place("other"), tmp_path / "there") == answers(root.store, tmp_path / "here")
    other = elsewhere(root, place("other"), tmp_path / "other-work")
    assert other.collection() == root.collection()
    assert other.reindex().manifest.index == root.reindex().manifest.index
    for release in list_releases(root.store)[1:]:
        assert other.collection(release.release_id) == root.collection(release.release_id)


def test_what_is_there_is_not_copied_again(root: UpdatedRoot, place: Place) -> None:
    back_up(root.store, place("backup"), holder="test")
    assert back_up(root.store, place("backup"), holder="test").files == 0
    root.append(upsert("d.png", 5))
    assert back_up(root.store, place("backup"), holder="test").files == 1
    root.reindex()
    copied = back_up(root.store, place("backup"), holder="test")
    assert copied.deleted == 0
    assert everything(place("backup")) == everything(root.store)


def test_what_was_pruned_and_purged_goes(root: UpdatedRoot, place: Place) -> None:
    back_up(root.store, place("backup"), holder="test")
    root.append(delete("b.png", purge=True))
    root.reindex()
    purge(root.store, holder="test")
    prune(root.store, keep=1, grace_seconds=0, run_grace_seconds=0, holder="test", clock=lambda: 1e11)
    assert back_up(root.store, place("backup"), holder="test").deleted > 5
    assert everything(place("backup")) == everything(root.store)
    assert not any(upsert("b.png", 3).image in data for data in everything(place("backup")).values())


def test_a_segment_that_a_purge_rewrote_is_copied_again(root: UpdatedRoot, place: Place) -> None:
    back_up(root.store, place("backup"), holder="test")
    root.append(delete("b.png", purge=True))
    root.reindex()
    purge(root.store, holder="test")
    back_up(root.store, place("backup"), holder="test")
    assert everything(place("backup")) == everything(root.store)


def test_while_changes_go_on(root: UpdatedRoot, place: Place, tmp_path: pathlib.Path) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set() and number < 500:
            root.append(upsert(f"live-{number}.png", 2))
            acknowledged.append(f"live-{number}.png")
            number += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        before = len(acknowledged)
        back_up(root.store, place("backup"), holder="test")
    finally:
        stop.set()
        thread.join()
    restore(place("backup"), place("other"))
    found = elsewhere(root, place("other"), tmp_path / "other-work").collection()
    # Of those since the backup began it holds as many as it has come to, without a gap.
    count = sum(name.startswith("live-") for name in found)
    assert count >= before
    assert {f"live-{number}.png" for number in range(count)} <= found.keys()


def test_a_publisher_is_waited_for(root: UpdatedRoot, place: Place) -> None:
    with hold_lease(root.store, "another"), pytest.raises(LeaseHeld):
        back_up(root.store, place("backup"), holder="test")
    assert read_current(place("backup")) is None
    with pytest.raises(CopyRefused, match="holds no backup that was finished"):
        restore(place("backup"), place("other"))


def test_copies_that_must_not_be_made(root: UpdatedRoot, place: Place) -> None:
    with pytest.raises(CopyRefused, match="holds no release: there is nothing to back up"):
        back_up(place("nothing"), place("backup"), holder="test")
    with pytest.raises(CopyRefused, match="must lie apart"):
        back_up(root.store, open_store(f"{root.store.uri}/backup"), holder="test")
    back_up(root.store, place("backup"), holder="test")
    with pytest.raises(CopyRefused, match="is a serving root already"):
        restore(place("backup"), root.store)


def flip(store: Store, path: str) -> None:
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.write(path, bytes(data))


def part_of(store: Store, release_id: str, part: str) -> str:
    return next(s.path for s in store.files(f"{layout.release_folder(release_id)}/{part}"))


def test_a_damaged_current_release_is_not_backed_up(root: UpdatedRoot, place: Place) -> None:
    first = back_up(root.store, place("backup"), holder="test")
    root.append(delete("file-2.png"))
    release_id = root.reindex().release_id
    path = part_of(root.store, release_id, "embeddings")
    flip(root.store, path)
    with pytest.raises(CopyRefused, match=f"{path}: its sha256 is"):
        back_up(root.store, place("backup"), holder="test")
    assert read_current(place("backup")) == first.release_id
    assert restore(place("backup"), place("other")).release_id == first.release_id


def test_what_is_damaged_does_not_replace_what_is_good(root: UpdatedRoot, place: Place) -> None:
    back_up(root.store, place("backup"), holder="test")
    before = everything(place("backup"))
    segment = layout.segment_file(root.writer.writer_id, 2)
    root.store.write(segment, root.store.read(segment)[:-1])
    content = layout.content_file(upsert("a.png", 2).sha256)
    root.store.write(content, b"?")
    copied = back_up(root.store, place("backup"), holder="test")
    assert [problem.split(": ")[0] for problem in copied.problems] == [
        f"{root.store.uri}/{path}" for path in (segment, content)
    ]
    assert everything(place("backup")) == before


@pytest.mark.parametrize("part", ["embeddings", "items", "updates"])
def test_a_damaged_backup_is_not_restored(root: UpdatedRoot, place: Place, part: str) -> None:
    release_id = back_up(root.store, place("backup"), holder="test").release_id
    flip(place("backup"), part_of(place("backup"), release_id, part))
    with pytest.raises(CopyRefused, match="the current release can't be restored"):
        restore(place("backup"), place("other"))
    assert read_current(place("other")) is None


def test_a_damaged_encoder_is_not_restored(root: UpdatedRoot, place: Place) -> None:
    back_up(root.store, place("backup"), holder="test")
    flip(place("backup"), next(s.path for s in place("backup").files(layout.ENCODERS) if "variables" in s.path))
    with pytest.raises(CopyRefused, match="is another encoder than it should be"):
        restore(place("backup"), place("other"))


def test_an_older_release_that_is_damaged_is_left_out(root: UpdatedRoot, place: Place, tmp_path: pathlib.Path) -> None:
    current = back_up(root.store, place("backup"), holder="test").release_id
    [older] = set(root.store.folders(layout.RELEASES)) - {current}
    flip(place("backup"), part_of(place("backup"), older, "items"))
    restored = restore(place("backup"), place("other"))
    assert any(older in problem for problem in restored.problems)
    assert place("other").folders(layout.RELEASES) == [current]
    assert elsewhere(root, place("other"), tmp_path / "other-work").collection() == root.collection()


@pytest.mark.slow
def test_killed_while_backing_up_and_restoring(tmp_path: pathlib.Path) -> None:
    root = UpdatedRoot(str(tmp_path / "root"), tmp_path / "work")
    root.append(upsert("a.png", 2))
    first = root.reindex().release_id
    backup, other = tmp_path / "backup", tmp_path / "other"
    back_up(root.store, open_store(backup), holder="test")
    root.append(delete("a.png"))
    root.reindex()
    prune(root.store, keep=1, grace_seconds=0, run_grace_seconds=0, holder="test", clock=lambda: 1e11)
    template = tmp_path / "template"
    shutil.copytree(backup, template)
    want = everything(root.store)
    for step in killed_at_every_change(backup, lambda: back_up(root.store, open_store(backup), holder="test")):
        assert read_current(open_store(backup)) in (first, read_current(root.store)), step
        open_release(open_store(backup), str(read_current(open_store(backup)))).close()
        back_up(root.store, open_store(backup), holder="test")
        assert everything(open_store(backup)) == want, step
        shutil.rmtree(backup)
        shutil.copytree(template, backup)
    for step in killed_at_every_change(other, lambda: restore(open_store(backup), open_store(other))):
        if read_current(open_store(other)) is None:
            restore(open_store(backup), open_store(other))
        assert everything(open_store(other)) == want, step
        shutil.rmtree(other, ignore_errors=True)


def test_the_commands(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = UpdatedRoot(str(tmp_path / "root"), tmp_path / "work")
    flags = ["backup", "--serving-root", root.store.uri, "--to", str(tmp_path / "backup")]
    assert main(flags) == 1
    assert "there is nothing to back up" in capsys.readouterr().err
    release_id = root.reindex().release_id
    with hold_lease(root.store, "another"):
        assert main(flags) == 2
    assert "another holds lease" in capsys.readouterr().err
    assert main(flags) == 0
    assert capsys.readouterr().out.startswith(f"backed up {release_id}: ")
    assert main([*flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    flags = ["restore", "--from", str(tmp_path / "backup"), "--serving-root", str(tmp_path / "other")]
    assert main(flags) == 0
    assert capsys.readouterr().out.startswith(f"restored {release_id}: ")
    assert main(flags) == 1
    assert "is a serving root already" in capsys.readouterr().err
