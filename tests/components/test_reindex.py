"""A reindex against its base: what is read, what is embedded, what is in the release afterwards."""

import hashlib
import os
import shutil
import zipfile

import numpy as np
import pytest

from components.artifacts import BaseRelease
from components.ingest.report import IngestError, RemovalRefused
from components.release_encoder import NoRelease, ReleaseEncoder
from serving.journal.entry import Tombstone, Upsert
from serving.journal.writer import JournalWriter
from serving.release import layout
from serving.release.current import read_current, write_current
from serving.release.lease import LeaseLost, hold_lease
from serving.release.publish import StaleBase
from serving.storage import open_store
from tests.components.reindexing import Root
from tests.components.tiny import make_encoder, png

pytestmark = pytest.mark.slow
COUNT = 24


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = Root(tmp_path_factory.mktemp("published"))
    for number in range(COUNT):
        root.write(f"{number % 3}/{number}.png", number)
    root.publish()
    return root


@pytest.fixture
def root(published, tmp_path):
    """A copy of a published root, whose images have the times they had."""
    copy = Root.__new__(Root)
    copy.__dict__.update(published.__dict__)
    copy.folder = tmp_path
    copy.serving_root = tmp_path / "serving"
    shutil.copytree(published.serving_root, copy.serving_root)
    copy.store = open_store(copy.serving_root)
    # In its place: an item's uri says where it lay.
    kept = tmp_path / "kept"
    shutil.copytree(published.images, kept)
    yield copy
    shutil.rmtree(published.images)
    shutil.copytree(kept, published.images)
    published.encoder.calls()


def upsert(item_id, seed, **attributes):
    image = png(seed)
    return Upsert(item_id, image, hashlib.sha256(image).hexdigest(), 8, 8, f"upsert:{item_id}", attributes)


def test_nothing_changed_reads_and_publishes_nothing(root):
    before = root.manifest()
    root.spoil()
    done = root.reindex()
    assert done.unchanged and done.release_id == before.release_id and root.manifest() == before
    assert (done.encoded, done.embedded) == (0, {})
    told = {name: done.report["reindex"][name] for name in ("listed", "unchanged", "read", "removed", "same_encoder")}
    assert told == {"listed": COUNT, "unchanged": COUNT, "read": 0, "removed": 0, "same_encoder": True}


@pytest.mark.parametrize("shards", [2, 4, 3])
def test_only_what_is_new_or_changed_is_read(root, shards):
    before, old = root.items(), root.embedding("1/1.png")
    root.spoil()
    root.write("new.png", 100)
    root.write("0/0.png", 101)
    (root.images / "1/4.png").unlink()
    # The same content as another's, and touched: both are read, and known.
    shutil.copy(root.images / "new.png", root.images / "copy.png")
    done = root.reindex(shards=shards, index_shards=1 if shards == 3 else 2)
    told = {n: done.report["reindex"][n] for n in ("listed", "unchanged", "read", "new", "changed", "removed")}
    assert told == {"listed": COUNT + 1, "unchanged": COUNT - 2, "read": 3, "new": 2, "changed": 1, "removed": 1}
    assert done.report["skipped"]["total"] == 0
    assert done.encoded == done.embedded["encoded"] == 2
    assert (done.embedded["kept"], done.embedded["items"]) == (COUNT - 2, COUNT + 1)
    after = root.items()
    assert set(after) == (set(before) | {"new.png", "copy.png"}) - {"1/4.png"}
    for item_id in set(before) - {"0/0.png", "1/4.png"}:
        assert after[item_id] == before[item_id]
    assert after["0/0.png"].sha256 == hashlib.sha256(png(101)).hexdigest()
    assert after["0/0.png"].thumbnail == png(101)
    np.testing.assert_array_equal(root.embedding("1/1.png"), old)
    np.testing.assert_array_equal(root.embedding("new.png"), root.embedding("copy.png"))
    root.spoil()
    assert root.reindex(shards=shards, index_shards=1 if shards == 3 else 2).unchanged


def test_a_file_that_was_touched_is_read_and_not_embedded(root):
    os.utime(root.images / "0/0.png", ns=(1, 1))
    done = root.reindex()
    assert (done.report["reindex"]["read"], done.report["reindex"]["changed"], done.encoded) == (1, 1, 0)
    assert root.reindex().unchanged


def test_a_label_that_changed_costs_no_reading(root):
    root.spoil()
    done = root.reindex(label_from="folder")
    assert (done.report["reindex"]["read"], done.report["reindex"]["reworded"], done.encoded) == (0, COUNT, 0)
    assert not done.unchanged
    assert {item.attributes["label"] for item in root.items().values()} == {"0", "1", "2"}
    assert root.reindex(label_from="folder").unchanged


def test_other_limits_read_everything(root):
    from serving.images import ImageLimits

    done = root.reindex(limits=ImageLimits(max_side=512))
    assert (done.report["reindex"]["read"], done.encoded) == (COUNT, 0)


def test_another_encoder_reads_and_embeds_everything(root, tmp_path):
    other = make_encoder(tmp_path / "other", seed=5)
    version = root.manifest().encoder.version + 7
    shutil.copytree(other.folder, root.serving_root / "encoders/encoder" / str(version))
    done = root.reindex(version=version)
    assert sum(other.calls()) == COUNT and done.encoded == 0
    assert (done.report["reindex"]["unchanged"], done.report["reindex"]["read"]) == (0, COUNT)
    assert root.manifest().encoder.version == version
    with pytest.raises(NoRelease, match=rf"no encoder 'encoder' of version 3; there are \d+, {version}"):
        root.reindex(version=3)


def test_a_base_of_before_there_were_versions_is_read_once(root):
    import contextlib
    import sqlite3

    (file,) = (root.serving_root / "releases").glob("*/items/*.sqlite")
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("ALTER TABLE items DROP COLUMN source_size")
        connection.execute("ALTER TABLE items DROP COLUMN source_version")
    done = root.reindex()
    assert (done.report["reindex"]["read"], done.encoded) == (COUNT, 0)
    assert root.reindex().unchanged


def test_upserts_and_deletes_are_put_over_the_images(root):
    writer = JournalWriter(root.store)
    writer.append([upsert("0/0.png", 200, price=0.1, fine=True), upsert("other", 201), Tombstone("1/1.png")])
    writer.append([upsert("gone", 202), Tombstone("gone"), Tombstone("nobody")])
    root.spoil()
    done = root.reindex()
    assert (done.report["upserts"], done.report["tombstones"]) == (2, 3)
    told = {n: done.report["reindex"][n] for n in ("unchanged", "read", "new", "changed", "removed", "deleted")}
    assert told == {"unchanged": COUNT - 2, "read": 2, "new": 1, "changed": 1, "removed": 0, "deleted": 1}
    assert done.encoded == 2
    items = root.items()
    assert len(items) == COUNT and "1/1.png" not in items and "gone" not in items
    assert items["0/0.png"].attributes == {"price": 0.1, "fine": True}
    assert items["0/0.png"].sha256 == hashlib.sha256(png(200)).hexdigest()
    assert items["0/0.png"].uri == "upsert:0/0.png"
    assert root.manifest().watermark == {writer.writer_id: 2}

    # What is in a release stays: the folder lacks one and holds the other, and the journal is read no more.
    (root.images / "1/1.png").unlink()
    shutil.rmtree(root.serving_root / "journal")
    assert root.reindex().unchanged
    shutil.copy(root.images / "2/2.png", root.images / "1/1.png")
    assert root.reindex().unchanged

    # Only an upsert revives the id; a delete of an upsert leaves the folder's item hidden.
    JournalWriter(root.store).append([upsert("1/1.png", 203), Tombstone("0/0.png")])
    done = root.reindex()
    assert (done.report["reindex"]["new"], done.report["reindex"]["deleted"], done.encoded) == (1, 1, 1)
    items = root.items()
    assert items["1/1.png"].sha256 == hashlib.sha256(png(203)).hexdigest() and "0/0.png" not in items


def test_a_training_run_honours_the_journal_too(root):
    JournalWriter(root.store).append([upsert("0/0.png", 200, fine=True), upsert("x", 201), Tombstone("1/1.png")])
    root.publish()
    items = root.items()
    assert len(items) == COUNT and "1/1.png" not in items
    assert items["0/0.png"].attributes == {"fine": True} and items["x"].thumbnail == png(201)
    assert root.reindex().unchanged


def test_too_much_gone_is_refused_unless_told(root):
    for number in range(COUNT // 2 + 1):
        (root.images / f"{number % 3}/{number}.png").unlink()
    with pytest.raises(RemovalRefused, match=r"13 of the 24 items of release \S+ are gone .* \(54%; at most 50% may"):
        root.reindex()
    assert root.manifest().index.count == COUNT
    done = root.reindex(max_removed_share=0.6)
    assert done.report["reindex"]["removed"] == 13 and root.manifest().index.count == COUNT - 13


def test_an_empty_folder_is_refused_even_if_all_may_go(root):
    for file in list(root.images.rglob("*.png")):
        file.unlink()
    with pytest.raises(IngestError, match="is empty"):
        root.reindex(max_removed_share=1.0)


def test_a_base_that_is_not_current_any_more_is_refused(root):
    root.write("new.png", 100)
    first = root.manifest().release_id
    root.reindex()
    second = root.manifest().release_id
    root.write("newer.png", 101)
    with pytest.raises(StaleBase, match=f"{second}.*{first}"):
        root.reindex(meanwhile=lambda: write_current(root.store, first))
    assert read_current(root.store) == first
    write_current(root.store, second)
    root.reindex()
    with pytest.raises(StaleBase):
        root.reindex(meanwhile=lambda: write_current(root.store, first))


def test_whoever_was_taken_for_dead_publishes_nothing(root):
    root.write("new.png", 100)
    with hold_lease(root.store, "the first", folder=layout.REINDEX) as lease:
        number = lease.number

    def taken_over():
        with hold_lease(root.store, "the second", folder=layout.REINDEX):
            pass

    before = read_current(root.store)
    with pytest.raises(LeaseLost, match="lease 2 has taken over"):
        root.reindex(lease=number, meanwhile=taken_over)
    assert read_current(root.store) == before
    root.reindex(lease=2)
    assert read_current(root.store) != before


def test_the_index_can_be_built_anew_where_nothing_has_changed(root):
    assert root.reindex(index_shards=2).unchanged
    root.spoil()
    done = root.reindex(index_shards=2, rebuild=True)
    assert not done.unchanged and done.encoded == 0 and len(root.manifest().index.shards) == 2
    assert len(root.items()) == COUNT


def test_there_must_be_a_release(tmp_path):
    blessing, base = (BaseRelease() for _ in range(2))
    blessing.uri, base.uri = str(tmp_path / "a"), str(tmp_path / "b")
    with pytest.raises(NoRelease, match="holds no release: `lookalike run` publishes the first"):
        ReleaseEncoder.test_call(infra_blessing=blessing, base=base, serving_root=str(tmp_path / "serving"))


def test_attributes_of_a_manifest_are_compared_as_they_are_kept(tmp_path):
    root = Root(tmp_path)
    rows = [f"images/{n}.png,{n},{n / 10},{'x' if n else ''}" for n in range(6)]
    for number in range(6):
        root.write(f"{number}.png", number)
    root.source = str(tmp_path / "list.csv")

    def write(*lines):
        (tmp_path / "list.csv").write_text("\n".join(["uri,number,price,text", *lines]) + "\n")

    write(*rows)
    root.publish()
    root.spoil()
    assert root.reindex().unchanged
    write(rows[0], "images/1.png,1,0.7,y", *rows[2:])
    done = root.reindex()
    told = {name: done.report["reindex"][name] for name in ("unchanged", "reworded", "read")}
    assert told == {"unchanged": 6, "reworded": 1, "read": 0} and done.encoded == 0
    items = root.items()
    assert items["images/1.png"].attributes == {"number": 1, "price": float(np.float32(0.7)), "text": "y"}
    assert items["images/0.png"].attributes == {"number": 0, "price": 0.0}
    assert root.reindex().unchanged


def test_of_a_new_zip_only_the_members_that_differ_are_read(tmp_path):
    root = Root(tmp_path)
    root.source = str(tmp_path / "images.zip")

    def write(seeds):
        with zipfile.ZipFile(root.source, "w") as archive:
            for name, seed in seeds.items():
                archive.writestr(f"{name}.png", png(seed))

    seeds = {number: number for number in range(6)}
    write(seeds)
    root.publish()
    write({**seeds, 3: 100})
    done = root.reindex()
    told = {name: done.report["reindex"][name] for name in ("unchanged", "changed", "read")}
    assert told == {"unchanged": 5, "changed": 1, "read": 1} and done.encoded == 1
