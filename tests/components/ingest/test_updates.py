"""What the cache of ingest sees of the journal, and what becomes of upserts and deletes in the listing."""

import contextlib
import pathlib

import pytest

from components.image_example_gen import Driver, ImageExampleGen
from components.ingest.choice import choose
from components.ingest.listing import Entry
from components.ingest.set_digest import SetDigest
from components.ingest.shard_result import ShardResult
from components.ingest.updates import (
    current_manifest,
    fold_updates,
    list_updates,
    local_state,
    no_updates,
    opened_state,
    updates_digest,
)
from serving.release import layout
from serving.release.current import read_current, write_current
from tests.serving.journal.changes import delete, upsert
from tests.serving.updated_root import UpdatedRoot


@pytest.fixture
def root(tmp_path: pathlib.Path) -> UpdatedRoot:
    return UpdatedRoot(str(tmp_path / "serving"), tmp_path / "work")


def fingerprint(root: UpdatedRoot, images: pathlib.Path) -> str:
    """Returns what TFX's cache compares, by our driver."""
    made = ImageExampleGen(str(images), code="code", serving_root=root.store.uri)
    found = Driver(None).resolve_exec_properties(dict(made.exec_properties), None, None)
    return str(found["input_fingerprint"])


def test_the_cache_sees_changes_and_not_that_a_release_took_them_up(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.png").write_bytes(b"listed, not read")
    plain = fingerprint(root, images)
    root.reindex()
    assert fingerprint(root, images) == plain

    root.append(upsert("a", 1), delete("file-1.png"))
    changed = fingerprint(root, images)
    assert changed != plain and fingerprint(root, images) == changed
    before = read_current(root.store)
    root.reindex()
    assert read_current(root.store) != before and fingerprint(root, images) == changed
    # A rollback to a release that the journal still leads on from.
    write_current(root.store, before)
    assert fingerprint(root, images) == changed

    root.append(delete("a"))
    assert fingerprint(root, images) not in (plain, changed)


def test_a_root_without_updates_has_the_digest_of_none(root: UpdatedRoot) -> None:
    assert updates_digest(root.store.uri) == SetDigest().hexdigest()


def test_updates_are_folded_and_listed_by_shard(root: UpdatedRoot, tmp_path: pathlib.Path) -> None:
    root.reindex()
    target = str(tmp_path / "updates")
    assert not fold_updates(root.store.uri, target, current_manifest(root.store))
    with local_state(target) as (path, watermark):
        assert (path, watermark) == (None, {})
    root.append(upsert("a", 1, attributes={"even": False}), upsert("b", 2), delete("c"))
    assert fold_updates(root.store.uri, target, current_manifest(root.store))
    with local_state(target) as (path, watermark):
        assert path is not None and watermark == {root.writer.writer_id: 1}
    with opened_state(target) as state:
        assert (state.upsert_count, state.tombstone_count) == (2, 1)
    listed = {Entry(*fields).item_id: (shard, Entry(*fields)) for shard, (fields,) in list_updates(target, 4)}
    assert {name: (shard, entry.update) for name, (shard, entry) in listed.items()} == {
        "a": (layout.shard_of("a", 4), "upsert"),
        "b": (layout.shard_of("b", 4), "upsert"),
        "c": (layout.shard_of("c", 4), "tombstone"),
    }
    entry = listed["a"][1]
    change = upsert("a", 1)
    assert entry.content == (change.sha256, 16, 16) and entry.version == f"sha256:{change.sha256}"
    assert entry.attributes == (("even", False),)

    # What a release has taken up is no news.
    root.reindex()
    assert not fold_updates(root.store.uri, target, current_manifest(root.store))


def test_without_a_serving_root_there_are_none(tmp_path: pathlib.Path) -> None:
    no_updates(str(tmp_path))
    assert list(list_updates(str(tmp_path), 2)) == list(list_updates("", 2)) == []
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(local_state(str(tmp_path))) == (None, {})


def test_an_update_counts_whatever_is_listed() -> None:
    result = ShardResult()
    listed = [Entry(name, f"/{name}", 1, "1") for name in ("a", "b", "c")]
    changes = [
        Entry("a", "upsert:a", -1, "sha256:0", update="upsert", content=("0", 1, 1)),
        Entry("b", "", -1, "", update="tombstone"),
        Entry("d", "upsert:d", -1, "sha256:1", update="upsert", content=("1", 1, 1)),
        Entry("e", "", -1, "", update="tombstone"),
    ]
    chosen = choose([*changes, *listed], result)
    assert sorted((entry.item_id, entry.uri) for entry in chosen.entries) == [
        ("a", "upsert:a"),
        ("c", "/c"),
        ("d", "upsert:d"),
    ]
    assert chosen.deleted == ["b", "e"] and (result.upserts, result.tombstones) == (2, 2)
    # The listing's digest is that of the images alone, and no duplicate was found.
    alone = ShardResult()
    choose(listed, alone)
    assert result.listing == alone.listing and result.duplicates == []
