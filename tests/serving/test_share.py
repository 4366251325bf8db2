"""Releases of which only some shards are loaded: together they are the whole, and none opens what isn't its own."""

import contextlib
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from serving.journal.clock import Stamp
from serving.journal.entry import Entry
from serving.release import layout
from serving.release.reader import Release, open_release
from serving.release.share import WHOLE, Share
from serving.release.verify import ReleaseRefused
from serving.search.overlay_builder import OverlayBuilder
from serving.search.searcher import Searcher
from serving.storage import open_store
from tests.serving.journal.changes import upsert
from tests.serving.release_builder import build_release, make_items, unit_vectors

SHARDS = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    root = tmp_path_factory.mktemp("share") / "root"
    return root, build_release(root, n=200, shards=SHARDS)


@contextlib.contextmanager
def opened(root: tuple[pathlib.Path, str], *shares: Share | None) -> Iterator[list[Release]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(open_release(open_store(root[0]), root[1], share=share)))
            for share in shares
        ]


@pytest.mark.parametrize("of", [1, 2, 3, 5, 7])
def test_shares_are_disjoint_and_together_all(of: int) -> None:
    shards = [shard for number in range(of) for shard in Share(number, of).shards(SHARDS)]
    assert sorted(shards) == list(range(SHARDS))


@pytest.mark.parametrize("text", ["", "1", "4/4", "-1/4", "1/0", "a/b", "1/4/2", " 0/4"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match=r"share must be I/N"):
        Share.parse(text)


def test_a_share_is_read_as_it_is_written() -> None:
    assert Share.parse("3/4") == Share(3, 4) and str(Share(3, 4)) == "3/4" and Share.parse("0/1") == WHOLE


@pytest.mark.parametrize("of", [2, 4, 7])
def test_parts_find_together_what_the_whole_finds(root: tuple[pathlib.Path, str], of: int) -> None:
    with opened(root, WHOLE, *(Share(number, of) for number in range(of))) as (whole, *parts):
        assert sum(part.count for part in parts) == whole.count
        for vector in unit_vectors(20, 8, seed=3):
            found = [n for part in parts for n in part.search(vector, 12)]
            best = sorted(((n.score, n.item.item_id) for n in found), key=lambda pair: (-pair[0], pair[1]))[:12]
            assert best == [(n.score, n.item.item_id) for n in whole.search(vector, 12)]


def test_an_item_is_held_by_the_part_that_owns_it(root: tuple[pathlib.Path, str]) -> None:
    with opened(root, *(Share(number, 3) for number in range(3))) as parts:
        for item in make_items(200):
            [owner] = [part for part in parts if part.owns(item.item_id)]
            assert [part for part in parts if part.row_of(item.item_id) is not None] == [owner]
            assert [part for part in parts if part.rows_of([item.item_id])] == [owner]
            found = owner.get_item(item.item_id)
            assert found is not None and found.uri == item.uri


@pytest.mark.parametrize("share", [None, Share(6, 7)])
def test_of_no_shard_nothing_is_found(root: tuple[pathlib.Path, str], share: Share | None) -> None:
    with opened(root, share) as [release]:
        query = unit_vectors(2, 8)
        assert release.count == 0 and release.search(query[0], 5) == []
        assert [array.shape for array in release.nearest_each(query, 5)] == [(2, 0), (2, 0)]
        assert len(release.nearest_among(query[0], 5, np.empty(0, np.int64))[0]) == 0
        assert release.get_item("image-0001.png") is None
        assert release.manifest.index.count == 200


def test_a_part_reads_no_file_of_another(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root", build_release(tmp_path / "root", n=60, shards=2)
    damaged = root[0] / layout.release_folder(root[1]) / layout.embeddings_file(1, 2)
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with opened(root, Share(0, 2), None) as (release, _):
        assert release.count > 0
    for share in (WHOLE, Share(1, 2)):
        with pytest.raises(ReleaseRefused, match="sha256"):
            open_release(open_store(root[0]), root[1], share=share)


def test_a_part_takes_in_only_updates_of_its_own(root: tuple[pathlib.Path, str]) -> None:
    entries = [Entry(Stamp(i, 0, "w" * 32), upsert(f"new-{i}.png", i)) for i in range(20)]
    with opened(root, Share(0, 2), Share(1, 2), None) as releases:
        missing = []
        for release in releases:
            builder = OverlayBuilder(Searcher(release, lambda item: item, cached_items=10), lambda item: item)
            missing.append({entry.change.item_id for entry in builder.add(entries)})
        assert missing[0] | missing[1] == {entry.change.item_id for entry in entries}
        assert not missing[0] & missing[1] and not missing[2] and missing[0] and missing[1]
