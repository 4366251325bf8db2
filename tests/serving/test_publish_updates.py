"""What a release says of updates, and when it must not be published."""

import pathlib
import uuid
from collections.abc import Iterator

import pytest

from serving.journal.clock import HybridClock
from serving.journal.contents import Contents
from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.release.current import read_current
from serving.release.manifest import FileEntry, ManifestError, UpdatesRef
from serving.release.publish import PublishRefused
from serving.release.reader import open_release, read_manifest
from serving.release.retention import prune, rollback
from serving.release.verify import ReleaseRefused
from tests.serving.journal.changes import delete, upsert
from tests.serving.release_builder import publish_release
from tests.serving.updated_root import UpdatedRoot, sha256_of


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[UpdatedRoot]:
    uri = str(tmp_path / "root") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    root = UpdatedRoot(uri, tmp_path / "work")
    yield root
    root.store.delete("")


def test_a_release_carries_its_updates(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    root.append(upsert("new.png", 1), delete("file-3.png"))
    published = root.reindex()
    assert published.manifest.watermark == {root.writer.writer_id: 1}
    assert published.manifest.updates is not None
    assert (published.manifest.updates.upserts, published.manifest.updates.tombstones) == (1, 1)
    assert read_manifest(root.store, published.release_id) == published.manifest
    release = open_release(root.store, published.release_id, cache=tmp_path / "cache")
    assert [item.item_id for item in release.updates.upserts()] == ["new.png"]
    assert [item.item_id for item in release.updates.tombstones()] == ["file-3.png"]
    release.close()
    want = {**root.folder, "new.png": sha256_of(1)}
    del want["file-3.png"]
    assert root.collection() == want


def test_a_release_of_before_there_were_updates(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    published = publish_release(root.store.uri, tmp_path / "release")
    data = root.store.read(f"{layout.release_folder(published.release_id)}/{layout.MANIFEST}")
    assert b"watermark" not in data
    assert b"updates" not in data
    release = open_release(root.store, published.release_id, cache=tmp_path / "cache")
    assert (release.manifest.watermark, release.manifest.updates, list(release.updates)) == ({}, None, [])
    release.close()


def test_an_empty_journal_changes_nothing_of_a_release(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    build = root.build()
    first = publish_release(**{**build, "updates": None, "watermark": None})
    assert root.reindex().unchanged
    assert first.manifest.updates is None


def test_nothing_new_is_not_published(root: UpdatedRoot) -> None:
    root.append(upsert("new.png", 1))
    first = root.reindex()
    second = root.reindex(base=first.release_id)
    assert second.unchanged
    assert second.release_id == first.release_id


def test_what_was_superseded_moves_no_release(root: UpdatedRoot) -> None:
    root.append(upsert("new.png", 1))
    first = root.reindex()
    slow = JournalWriter(root.store, "a" * 32, clock=HybridClock("a" * 32, lambda: 5))
    slow.append([upsert("new.png", 2)])
    assert root.build()["watermark"] == {root.writer.writer_id: 1, slow.writer_id: 1}
    assert root.reindex().release_id == first.release_id


def test_a_delete_of_what_is_not_there_is_published(root: UpdatedRoot) -> None:
    first = root.reindex()
    root.append(delete("nothing.png"))
    second = root.reindex()
    assert not second.unchanged
    assert second.manifest.parent == first.release_id
    assert second.manifest.index == first.manifest.index


def test_a_release_built_on_another_is_refused(root: UpdatedRoot) -> None:
    first = root.reindex()
    root.append(delete("file-0.png"))
    late = root.build()
    root.append(delete("file-1.png"))
    second = root.reindex(base=first.release_id)
    with pytest.raises(PublishRefused, match=f"built on {first.release_id}, but CURRENT is {second.release_id} now"):
        publish_release(**late, base=first.release_id)
    assert read_current(root.store) == second.release_id


def test_the_same_content_again_is_no_conflict(root: UpdatedRoot) -> None:
    first = root.reindex()
    root.append(delete("file-0.png"))
    build = root.build()
    second = publish_release(**build, base=first.release_id)
    build["work"] = build["work"].with_name("again")
    # As a run that died right after it published, and is run again.
    assert publish_release(**build, base=first.release_id).release_id == second.release_id


def test_a_run_that_took_long_may_publish_while_the_journal_holds_what_it_lacks(root: UpdatedRoot) -> None:
    root.reindex()
    late = root.build(encoder_seed=1)
    root.append(delete("file-1.png"), upsert("new.png", 1))
    root.reindex()
    want = root.collection()
    publish_release(**late)
    assert root.collection() == want


def test_a_run_that_took_too_long_is_refused(root: UpdatedRoot) -> None:
    root.reindex()
    late = root.build(encoder_seed=1)
    root.append(delete("file-1.png"), upsert("new.png", 1))
    current = root.reindex()
    prune(root.store, keep=1, grace_seconds=0, run_grace_seconds=0, holder="test", clock=lambda: 1e11)
    assert root.segments() == []
    with pytest.raises(PublishRefused, match=r"changes of 'file-1\.png', 'new\.png' that this release was built"):
        publish_release(**late)
    assert read_current(root.store) == current.release_id


def test_a_release_without_updates_is_refused_where_they_would_be_lost(root: UpdatedRoot) -> None:
    root.append(delete("file-1.png"))
    root.reindex()
    prune(root.store, keep=1, grace_seconds=0, run_grace_seconds=0, holder="test", clock=lambda: 1e11)
    with pytest.raises(PublishRefused, match=r"'file-1\.png'"):
        publish_release(**{**root.build(), "updates": None, "watermark": None})


def test_an_upsert_without_its_image_is_refused(root: UpdatedRoot) -> None:
    root.append(upsert("new.png", 1))
    build = root.build()
    Contents(root.store).delete(sha256_of(1))
    with pytest.raises(PublishRefused, match=r"holds no image of 'new\.png'"):
        publish_release(**build)


def test_a_rollback_keeps_deletes(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    first = root.reindex().release_id
    root.append(delete("file-1.png"), upsert("new.png", 1))
    second = root.reindex().release_id
    root.append(delete("new.png"), upsert("file-2.png", 2))
    third = root.reindex().release_id
    want = root.collection()
    for release_id in (first, second, third):
        rollback(root.store, release_id, holder="test", cache=tmp_path / "cache")
        prune(root.store, keep=3, grace_seconds=0, run_grace_seconds=0, holder="test", clock=lambda: 1e11)
        assert root.collection() == want
    rollback(root.store, first, holder="test", cache=tmp_path / "cache")
    assert root.reindex().manifest.parent == first
    assert root.collection() == want


def flip(root: UpdatedRoot, path: str) -> None:
    data = bytearray(root.store.read(path))
    data[len(data) // 2] ^= 1
    root.store.write(path, bytes(data))


def test_damaged_updates_are_refused(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    root.append(delete("file-1.png"))
    release_id = root.reindex().release_id
    path = f"{layout.release_folder(release_id)}/{layout.UPDATES_STATE}"
    flip(root, path)
    with pytest.raises(ReleaseRefused, match=r"updates/state\.sqlite has sha256"):
        open_release(root.store, release_id, cache=tmp_path / "other")
    root.store.delete(path)
    with pytest.raises(ReleaseRefused, match=r"updates/state\.sqlite is missing"):
        open_release(root.store, release_id, cache=tmp_path / "another")


def test_updates_lie_in_one_place() -> None:
    with pytest.raises(ManifestError, match=r"updates must lie at updates/state\.sqlite"):
        UpdatesRef(FileEntry("elsewhere.sqlite", 1, "0" * 64), 1, 1)
