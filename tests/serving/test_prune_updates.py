"""What prune deletes of the journal, of contents and of cached embeddings, and what it must not."""

import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.release.cached_embeddings import list_orphans, list_pairs, read_pair, write_pair
from serving.release.current import read_current
from serving.release.retention import Pruned, prune, rollback
from serving.storage import Store
from tests.serving.journal.changes import delete, upsert
from tests.serving.killed import killed_at_every_change
from tests.serving.updated_root import DIMENSION, UpdatedRoot, embed, sha256_of


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[UpdatedRoot]:
    uri = str(tmp_path / "root") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    root = UpdatedRoot(uri, tmp_path / "work")
    yield root
    root.store.delete("")


def pruned(store: Store, keep: int = 1, **options: Any) -> Pruned:
    # The files are as old as this test, so the clock is far beyond it.
    arguments = {"grace_seconds": 0, "run_grace_seconds": 0, "holder": "test", "clock": lambda: 1e11, **options}
    return prune(store, keep=keep, **arguments)


def cached(root: UpdatedRoot, digest: str) -> set[str]:
    """Returns the sha256s of the contents whose embeddings are cached, each with the right one."""
    found = {}
    for pair in list_pairs(root.store, digest):
        keys, vectors = read_pair(root.store, pair.stem) or pytest.fail(f"{pair.stem} is damaged")
        assert all(bytes(key).hex().startswith(pair.prefix) for key in keys)
        found.update((bytes(key).hex(), vector) for key, vector in zip(keys, vectors, strict=True))
    assert all((embed(sha256) == vector).all() for sha256, vector in found.items())
    return set(found)


def test_segments_go_when_every_kept_release_has_passed_them(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 1))
    root.append(upsert("b.png", 2))
    root.reindex()
    root.append(delete("file-1.png"))
    root.reindex()
    root.append(delete("file-2.png"))  # beyond every release
    want = root.collection()
    assert pruned(root.store, keep=2).segments == tuple(layout.segment_file(root.writer.writer_id, s) for s in (1, 2))
    assert root.segments() == [3, 4]
    assert pruned(root.store, keep=1).segments == (layout.segment_file(root.writer.writer_id, 3),)
    assert root.segments() == [4]
    assert root.collection() == want


def test_a_release_without_a_watermark_has_passed_nothing(root: UpdatedRoot) -> None:
    root.reindex()
    root.append(delete("file-1.png"))
    root.reindex()
    assert pruned(root.store, keep=2).segments == ()
    assert root.segments() == [1]


def test_segments_without_a_release_stay(root: UpdatedRoot) -> None:
    root.append(delete("file-1.png"))
    assert pruned(root.store) == Pruned((), ())
    assert root.segments() == [1]


def test_what_a_run_may_still_need_stays(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 1), delete("file-1.png"))
    root.append(delete("a.png"))
    root.reindex()
    found = pruned(root.store, run_grace_seconds=1e11)
    assert (found.segments, found.contents, found.caches, found.embeddings) == ((), (), (), 0)
    with pytest.raises(ValueError, match="run_grace_seconds must be at least 0, got -1"):
        pruned(root.store, run_grace_seconds=-1)


def test_a_dry_run_says_the_same_and_deletes_nothing(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 1), upsert("b.png", 2))
    root.reindex()
    root.append(delete("a.png"))
    root.reindex()
    before = {(s.path, s.size) for s in root.store.files("") if not s.path.startswith(layout.LEASE)}
    said = pruned(root.store, dry_run=True)
    assert {(s.path, s.size) for s in root.store.files("") if not s.path.startswith(layout.LEASE)} == before
    assert said == pruned(root.store)
    assert len(said.segments) == 2
    assert said.contents == (layout.content_file(sha256_of(1)),)
    assert said.embeddings == 1


def test_folders_of_writers_without_segments_go(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    root.append(delete("file-1.png"))
    root.reindex()
    pruned(root.store)
    assert root.store.folders(layout.JOURNAL) == []
    # Of its writer nothing is left to be read twice, so the next release doesn't name it.
    other = JournalWriter(root.store)
    other.append([delete("file-2.png")])
    assert root.reindex().manifest.watermark == {other.writer_id: 1}


def test_a_writer_that_was_idle_for_long_is_not_forgotten(root: UpdatedRoot) -> None:
    root.append(delete("file-1.png"))
    root.reindex()
    pruned(root.store)
    JournalWriter(root.store).append([delete("file-2.png")])
    root.reindex()
    pruned(root.store)
    want = root.collection()
    root.append(delete("file-3.png"))  # its second segment, and all that there is of it
    del want["file-3.png"]
    assert root.collection() == want
    root.reindex()
    assert root.collection() == want


def test_contents_stay_while_a_release_names_them(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 1), upsert("b.png", 2))
    root.reindex()
    root.append(delete("a.png"))
    root.reindex()
    pruned(root.store, keep=2)
    assert root.contents() == {sha256_of(1), sha256_of(2)}
    assert pruned(root.store, keep=1).contents == (layout.content_file(sha256_of(1)),)
    assert root.contents() == {sha256_of(2)}


def test_contents_stay_while_the_journal_names_them(root: UpdatedRoot) -> None:
    root.append(delete("file-1.png"))
    root.reindex()
    root.append(upsert("a.png", 1))
    root.build()  # folds it, and is not published yet
    assert root.contents() == {sha256_of(1)}
    pruned(root.store)
    assert root.contents() == {sha256_of(1)}


def test_what_can_not_be_told_is_not_deleted(root: UpdatedRoot, caplog: pytest.LogCaptureFixture) -> None:
    root.append(upsert("a.png", 1))
    root.reindex()
    root.append(delete("a.png"))
    root.reindex()
    root.append(upsert("c.png", 3))
    path = layout.segment_file(root.writer.writer_id, 3)
    root.store.write(path, root.store.read(path)[:-1])
    pruned(root.store)
    assert root.contents() == {sha256_of(1)}
    assert f"{path} is damaged" in caplog.text
    root.store.write(f"{layout.release_folder(str(read_current(root.store)))}/{layout.MANIFEST}", b"?")
    assert pruned(root.store) == Pruned((), ())


def test_embeddings_of_what_no_release_holds_go(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 1))
    digest = root.reindex().manifest.encoder.digest
    root.append(delete("a.png"))
    root.reindex()
    assert cached(root, digest) == {*root.folder.values(), sha256_of(1)}
    assert pruned(root.store, keep=2).embeddings == 0
    assert pruned(root.store, keep=1).embeddings == 1
    assert cached(root, digest) == set(root.folder.values())


def test_caches_of_encoders_that_no_release_has_go(root: UpdatedRoot) -> None:
    first = root.reindex().manifest.encoder.digest
    second = root.reindex(encoder_seed=1).manifest.encoder.digest
    root.store.write("embeddings-cache/notes/readme", b"not ours")
    assert pruned(root.store, keep=2).caches == ()
    assert pruned(root.store, keep=1).caches == (layout.cache_folder(first),)
    assert root.store.folders(layout.CACHES) == sorted([second, "notes"])


def test_many_small_files_become_one(root: UpdatedRoot) -> None:
    digest = root.reindex().manifest.encoder.digest
    whole = list_pairs(root.store, digest)
    name = next(iter(root.folder.values()))
    key = np.frombuffer(bytes.fromhex(name), np.uint8).reshape(1, -1)
    for number in range(10):
        write_pair(root.store, digest, name[:1], np.repeat(key, number + 1, 0), np.tile(embed(name), (number + 1, 1)))
    assert pruned(root.store).embeddings == 0
    assert [pair.prefix for pair in list_pairs(root.store, digest) if pair not in whole] == [name[:1]]
    assert cached(root, digest) == set(root.folder.values())


def test_a_damaged_pair_goes(root: UpdatedRoot) -> None:
    digest = root.reindex().manifest.encoder.digest
    pair = list_pairs(root.store, digest)[0]
    root.store.write(f"{pair.stem}.keys.npy", b"?")
    pruned(root.store)
    assert pair.stem not in [other.stem for other in list_pairs(root.store, digest)]


def test_vectors_of_another_dimension_are_left_alone(root: UpdatedRoot) -> None:
    digest = root.reindex().manifest.encoder.digest
    name = next(iter(root.folder.values()))
    key = np.frombuffer(bytes.fromhex(name), np.uint8).reshape(1, -1)
    for number in range(10):
        vector = np.full((1, DIMENSION + number % 2), number, np.float32)
        write_pair(root.store, digest, name[:1], key, vector)
    before = list_pairs(root.store, digest)
    pruned(root.store)
    assert list_pairs(root.store, digest) == before


def test_a_release_that_is_rolled_back_to_keeps_what_it_needs(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    root.append(upsert("a.png", 1))
    first = root.reindex().release_id
    for number in range(3):
        root.append(delete(f"file-{number}.png"), upsert("a.png", 10 + number))
        root.reindex()
    want = root.collection()
    rollback(root.store, first, holder="test", cache=tmp_path / "cache")
    found = pruned(root.store, keep=1)  # the newest, and the current one
    assert len(found.releases) == 2
    assert root.segments() == [2, 3, 4]
    assert root.collection() == want
    root.reindex()
    assert root.collection() == want


@pytest.mark.slow
def test_killed_while_pruning_updates(tmp_path: pathlib.Path) -> None:
    template = UpdatedRoot(str(tmp_path / "template"), tmp_path / "work")
    template.append(upsert("a.png", 1), upsert("b.png", 2))
    template.reindex()
    template.append(delete("a.png"), upsert("b.png", 3))
    last = template.reindex().manifest.encoder.digest
    template.append(upsert("c.png", 4))
    want = template.collection()
    path = tmp_path / "root"
    shutil.copytree(template.store.uri, path)
    root = UpdatedRoot(str(path), tmp_path / "other")
    steps = 0
    for step in killed_at_every_change(path, lambda: pruned(root.store)):
        steps += 1
        assert root.collection() == want, step
        assert cached(root, last) >= set(want.values()) - {sha256_of(4)}, step
        pruned(root.store)
        assert root.collection() == want, step
        assert root.contents() == {sha256_of(3)}, step
        assert cached(root, last) == set(want.values()) - {sha256_of(4)}, step
        assert [s.path for s in root.store.files(layout.JOURNAL)] == [
            layout.segment_file(template.writer.writer_id, 3)
        ], step
        assert not [*path.rglob("*.tmp")], step
        assert not list_orphans(root.store, last), step
        shutil.rmtree(path)
        shutil.copytree(template.store.uri, path)
    assert steps > 15
