"""Bytes that were to be erased are nowhere afterwards, and everything else is as it was."""

import hashlib
import json
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import pytest

from serving.journal.clock import HybridClock
from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.release.current import read_current
from serving.release.encoder_info import Probe
from serving.release.publish import PublishRefused
from serving.release.purge import AWAITS_PURGE, AWAITS_RELEASE, list_purges, purge
from serving.release.purge_record import read_records
from serving.release.reader import read_manifest
from serving.release.retention import list_releases
from serving.storage import Store
from tests.serving.journal.changes import delete, upsert
from tests.serving.killed import killed_at_every_change
from tests.serving.release_builder import png, publish_release
from tests.serving.test_prune_updates import cached
from tests.serving.updated_root import UpdatedRoot, embed, sha256_of


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[UpdatedRoot]:
    uri = str(tmp_path / "root") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    root = UpdatedRoot(uri, tmp_path / "work")
    yield root
    root.store.delete("")


def holds(store: Store, *needles: bytes) -> list[str]:
    """Returns the files that hold any of these bytes."""
    return [stat.path for stat in store.files("") if any(needle in store.read(stat.path) for needle in needles)]


def traces(root: UpdatedRoot, item_id: str, sha256: str, image: bytes = b"") -> list[str]:
    """Returns the files that hold an item's image, its embedding or its thumbnail."""
    needles = [b"thumbnail of " + item_id.encode(), embed(sha256).tobytes(), bytes.fromhex(sha256)]
    return holds(root.store, *needles, *([image] if image else []))


def erased(root: UpdatedRoot) -> None:
    record = purge(root.store, holder="test", clock=lambda: 2e9)
    assert record is not None
    assert (record.done, record.waits, record.sha256s) == (2e9, "", ())


def test_nothing_to_purge(root: UpdatedRoot) -> None:
    assert purge(root.store, holder="test") is None
    root.append(upsert("a.png", 2), delete("file-1.png"))
    root.reindex()
    assert purge(root.store, holder="test") is None
    assert list_purges(root.store).pending == list_purges(root.store).done == ()


def test_an_upsert_is_erased(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2), upsert("b.png", 3))
    root.reindex()
    root.append(delete("a.png", purge=True))
    root.reindex()
    assert len(traces(root, "a.png", sha256_of(2), png(2))) >= 4  # release, journal, contents, cache
    want = root.collection()
    erased(root)
    assert traces(root, "a.png", sha256_of(2), png(2)) == []
    assert root.collection() == want
    assert root.contents() == {sha256_of(3)}


def test_an_image_of_the_folder_is_erased(root: UpdatedRoot) -> None:
    digest = root.reindex().manifest.encoder.digest
    sha256 = root.folder["file-3.png"]
    root.append(delete("file-3.png", purge=True))
    root.reindex()
    assert len(traces(root, "file-3.png", sha256)) >= 2
    want = root.collection()
    erased(root)
    assert traces(root, "file-3.png", sha256) == []
    assert root.collection() == want
    assert cached(root, digest) == set(want.values())


def test_it_waits_for_a_release_without_the_item(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2))
    root.reindex()
    [entry] = root.writer.append([delete("a.png", purge=True)])
    assert purge(root.store, holder="test") is None
    [pending] = list_purges(root.store).pending
    assert pending.item_id == "a.png"
    assert pending.asked == entry.stamp.milliseconds / 1000
    assert pending.waits == AWAITS_RELEASE
    root.reindex()
    assert [item.waits for item in list_purges(root.store).pending] == [AWAITS_PURGE]
    erased(root)
    found = list_purges(root.store)
    assert found.pending == ()
    assert [(dict(record.items), record.done) for record in found.done] == [({"a.png": entry.stamp}, 2e9)]
    assert purge(root.store, holder="test") is None


def test_a_delete_that_does_not_ask_for_it_erases_nothing(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2), upsert("b.png", 3))
    first = root.reindex().release_id
    root.append(delete("a.png"), delete("b.png", purge=True))
    root.reindex()
    root.append(upsert("c.png", 4))
    want = root.collection()
    erased(root)
    assert first not in root.store.folders(layout.RELEASES)
    assert root.collection() == want
    # No release names it any more, but the journal does; prune deletes both when its time has come.
    assert holds(root.store, png(2)) == [
        layout.content_file(sha256_of(2)),
        layout.segment_file(root.writer.writer_id, 1),
    ]
    assert holds(root.store, png(3)) == []


def test_releases_without_the_item_stay(root: UpdatedRoot) -> None:
    first = root.reindex().release_id
    root.append(upsert("a.png", 2))
    second = root.reindex().release_id
    root.append(delete("a.png", purge=True))
    third = root.reindex().release_id
    erased(root)
    assert root.store.folders(layout.RELEASES) == sorted([first, third])
    assert second not in root.store.folders(layout.RELEASES)
    assert root.collection(first) == root.collection(third) == root.folder


def test_content_that_another_item_has_stays(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2), upsert("twin.png", 2))
    digest = root.reindex().manifest.encoder.digest
    root.append(delete("a.png", purge=True))
    root.reindex()
    erased(root)
    assert root.contents() == {sha256_of(2)}
    assert sha256_of(2) in cached(root, digest)
    assert root.collection()["twin.png"] == sha256_of(2)
    assert holds(root.store, b"thumbnail of a.png") == []


def test_what_was_upserted_since_stays_and_what_was_before_goes(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2))
    root.reindex()
    root.append(delete("a.png", purge=True))
    root.append(upsert("a.png", 3))
    root.reindex()
    want = root.collection()
    erased(root)
    assert holds(root.store, png(2)) == []
    assert root.collection() == want
    assert root.contents() == {sha256_of(3)}
    assert root.reindex().unchanged


def test_a_journal_that_was_rewritten_says_the_same(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2), upsert("b.png", 3), upsert("c.png", 4))
    root.append(delete("b.png"), delete("a.png", purge=True))
    root.reindex()
    before = read_current(root.store)
    erased(root)
    other = UpdatedRoot(root.store.uri, root._work / "other")
    root.store.delete(layout.CURRENT)  # as if the journal were all that is left
    other.folder = root.folder
    assert other.reindex().manifest.updates == read_manifest(root.store, str(before)).updates


def test_a_run_that_began_before_the_delete_makes_it_due_again(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2))
    root.reindex()
    late = root.build(encoder_seed=1)
    root.append(delete("a.png", purge=True))
    root.reindex()
    erased(root)
    # Its updates name an image that is gone.
    with pytest.raises(PublishRefused, match=r"holds no image of 'a\.png'"):
        publish_release(**late)


def test_a_file_that_a_late_run_brings_back_is_erased_again(root: UpdatedRoot) -> None:
    root.reindex()
    late = root.build(encoder_seed=1)
    root.append(delete("file-3.png", purge=True))
    root.reindex()
    erased(root)
    publish_release(**late)
    assert [item.waits for item in list_purges(root.store).pending] == [AWAITS_RELEASE]
    root.reindex(encoder_seed=1)
    assert [item.waits for item in list_purges(root.store).pending] == [AWAITS_PURGE]
    erased(root)
    assert holds(root.store, b"thumbnail of file-3.png") == []
    assert list_purges(root.store).pending == ()


def test_an_encoder_that_shows_the_image_as_its_probe_is_waited_for(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 1))  # release_builder's encoders have the pictures 0 and 1 as probes
    root.reindex()
    root.append(delete("a.png", purge=True))
    root.reindex()
    for _ in range(2):
        record = purge(root.store, holder="test")
        assert record is not None
        assert record.done is None
        assert "holds an image as its probe: train a new encoder" in record.waits
        assert [item.waits for item in list_purges(root.store).pending] == [record.waits]
        assert len(read_records(root.store)) == 1
    assert holds(root.store, png(1)) == []  # in the encoder it is base64


def test_after_a_training_older_releases_go_with_the_encoder_that_shows_the_image(root: UpdatedRoot) -> None:
    shows = [Probe(png(5), embed(sha256_of(5)))]
    root.append(upsert("a.png", 5))
    root.reindex(probes=shows)
    root.append(delete("a.png", purge=True))
    without_it = root.reindex(probes=shows).release_id
    waiting = purge(root.store, holder="test")
    assert waiting is not None and f"of {without_it}, holds an image as its probe" in waiting.waits
    trained = root.reindex(encoder_seed=1)
    record = purge(root.store, holder="test")
    assert record is not None and record.done is not None
    assert record.releases == (without_it,) and len(record.encoders) == 1
    assert [listed.release_id for listed in list_releases(root.store)] == [trained.release_id]


def test_an_encoder_that_no_release_needs_is_deleted_for_its_probe(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 5))
    root.reindex(probes=[Probe(png(5), embed(sha256_of(5)))])
    root.append(delete("a.png", purge=True))
    root.reindex(encoder_seed=1)
    record = purge(root.store, holder="test")
    assert record is not None
    assert len(record.encoders) == 1
    assert record.done is not None


def test_what_can_not_be_read_is_waited_for(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2))
    first = root.reindex().release_id
    root.append(delete("a.png", purge=True))
    root.reindex()
    manifest = f"{layout.release_folder(first)}/{layout.MANIFEST}"
    root.store.write(manifest, b"?")
    other = JournalWriter(root.store)
    other.append([upsert("b.png", 3)])
    segment = layout.segment_file(other.writer_id, 1)
    root.store.write(segment, root.store.read(segment)[:-1])
    record = purge(root.store, holder="test")
    assert record is not None
    assert f"{first} can't be read" in record.waits
    assert f"{segment} is damaged" in record.waits
    assert record.done is None
    assert sha256_of(2) in record.sha256s
    root.store.delete(segment)
    root.store.delete(layout.release_folder(first))
    erased(root)
    assert [record.done for record in read_records(root.store)] == [2e9]


def test_an_upsert_that_another_stamps_later_survives(root: UpdatedRoot) -> None:
    root.reindex()
    late = JournalWriter(root.store, "f" * 32, clock=HybridClock("f" * 32, lambda: 10**14))
    late.append([upsert("a.png", 3)])
    root.append(upsert("a.png", 2), delete("a.png", purge=True))
    root.reindex()
    erased(root)
    assert root.collection()["a.png"] == sha256_of(3)
    assert holds(root.store, png(2)) == []


def test_a_record_says_what_was_done(root: UpdatedRoot) -> None:
    root.append(upsert("a.png", 2))
    first = root.reindex().release_id
    [entry] = root.writer.append([delete("a.png", purge=True)])
    root.reindex()
    record = purge(root.store, holder="test", clock=lambda: 2e9)
    assert record is not None
    value = json.loads(root.store.read(layout.purge_file(record.purge_id)))
    assert value == {
        "purge_id": record.purge_id,
        "items": {"a.png": list(entry.stamp)},
        "asked": entry.stamp.milliseconds / 1000,
        "done": 2e9,
        "waits": "",
        "sha256s": [],
        "releases": [first],
        "encoders": [],
        "segments": 1,
        "contents": 1,
        "embeddings": 1,
    }
    root.store.write(layout.purge_file(record.purge_id), b"{}")
    with pytest.raises(ValueError, match="not a record of a purge"):
        list_purges(root.store)


@pytest.mark.slow
def test_killed_while_purging(tmp_path: pathlib.Path) -> None:
    template = UpdatedRoot(str(tmp_path / "template"), tmp_path / "work")
    template.append(upsert("a.png", 2), upsert("b.png", 3))
    template.reindex()
    template.append(delete("a.png", purge=True), delete("file-3.png", purge=True))
    template.reindex()
    template.append(upsert("c.png", 4))
    want = template.collection()
    path = tmp_path / "root"
    shutil.copytree(template.store.uri, path)
    root = UpdatedRoot(str(path), tmp_path / "other")
    steps = 0
    for step in killed_at_every_change(path, lambda: purge(root.store, holder="test")):
        steps += 1
        assert root.collection() == want, step
        found = list_purges(root.store)
        gone = not traces(root, "a.png", sha256_of(2), png(2))
        assert len(found.pending) == 2 or (gone and not found.pending), step
        purge(root.store, holder="test", clock=lambda: 1e10)
        assert root.collection() == want, step
        assert traces(root, "a.png", sha256_of(2), png(2)) == [], step
        assert traces(root, "file-3.png", hashlib.sha256(png(1003)).hexdigest()) == [], step
        assert [dict(record.items).keys() for record in list_purges(root.store).done] == [{"a.png", "file-3.png"}], step
        assert not [*path.rglob("*.tmp")], step
        shutil.rmtree(path)
        shutil.copytree(template.store.uri, path)
    assert steps > 15
