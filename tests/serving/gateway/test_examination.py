"""A release looked at by another process while one is served."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from lookalike.retrieval.v1 import retrieval_pb2
from serving.gateway import conversion, examination, wire
from serving.gateway.examination import Examiner
from serving.release import layout
from serving.release.reader import open_release
from serving.release.share import WHOLE, Share
from serving.release.verify import ReleaseRefused
from serving.search.searcher import Searcher
from serving.storage import open_store
from tests.serving.collection import Collection


@pytest.fixture
def collection(tmp_path) -> Collection:
    return Collection(tmp_path / "root")


def examiner(collection: Collection, *, share: Share = WHOLE, items: int = 100) -> Examiner:
    return Examiner(open_store(collection.root), cache=None, share=share, items=items, finish=wire.item)


def searcher(collection: Collection, release_id: str, *, cached_items: int = 100, **options) -> Searcher[bytes]:
    release = open_release(open_store(collection.root), release_id, **options)
    return Searcher(release, conversion.render, cached_items=cached_items)


@pytest.mark.parametrize("share", [WHOLE, Share(1, 2)])
def test_what_another_process_has_checked_is_loaded_alike(collection: Collection, share: Share) -> None:
    release_id = collection.publish()
    examined = examiner(collection, share=share).examine(release_id, None)
    theirs = searcher(collection, release_id, share=share, checked=examined.checked)
    ours = searcher(collection, release_id, share=share)
    assert theirs.release.encoder_info.probes[0].image == ours.release.encoder_info.probes[0].image
    for query in np.eye(16, dtype=np.float32):
        rows, scores = theirs.release.nearest(query, 7)
        expected, values = ours.release.nearest(query, 7)
        assert rows.tolist() == expected.tolist() and scores.tolist() == values.tolist()


def test_its_items_are_those_that_answers_hold(collection: Collection) -> None:
    release_id = collection.publish()
    one = examiner(collection)
    examined = one.examine(release_id, None)
    ready, reading = (searcher(collection, release_id) for _ in range(2))
    one.prepare(ready, examined)
    # As messages: the order in a map is that of a process.
    found, expected = (
        retrieval_pb2.SearchResponse.FromString(wire.search_response(items, [0.5] * 40, [], b""))
        for items in (ready.cached(range(40)), reading.load(range(40)))
    )
    assert found == expected and len(found.neighbors) == 40


def test_what_answers_have_held_comes_first_and_stays_longest(collection: Collection) -> None:
    served = searcher(collection, collection.publish())
    asked = [row for row, item in enumerate(served.items(range(40))) if item.item_id in ("item-7.png", "item-31.png")]
    served.load(asked)
    release_id = collection.publish(seed=1, count=38)
    one = examiner(collection, items=5)
    examined = one.examine(release_id, served)
    ready = searcher(collection, release_id, cached_items=5)
    one.prepare(ready, examined)
    names = [item.item_id for item in ready.items(ready.remembered())]
    assert len(names) == 5 and set(names[-2:]) == {"item-7.png", "item-31.png"}


def test_a_served_release_that_was_pruned_is_no_obstacle(collection: Collection) -> None:
    served = searcher(collection, first := collection.publish())
    served.load([1, 2, 3])
    release_id = collection.publish(seed=1)
    manifest = collection.root / layout.release_folder(first) / layout.MANIFEST
    manifest.unlink()
    assert len(examiner(collection, items=5).examine(release_id, served).rows) == 5


def test_what_it_finds_wrong_is_said_as_always(collection: Collection) -> None:
    release_id = collection.publish(flip="items")
    with pytest.raises(ReleaseRefused, match="has sha256") as caught:
        examiner(collection).examine(release_id, None)
    assert caught.value.fault == "file"
    with pytest.raises(OSError, match="no-such-release"):
        examiner(collection).examine("no-such-release", None)


def test_the_end_of_its_process_is_a_passing_fault(collection: Collection, monkeypatch) -> None:
    release_id = collection.publish()
    one = examiner(collection)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(OSError, match="ended with 1"):
            one.examine(release_id, None)
    assert one.examine(release_id, None).rows


def test_it_ends_with_the_gateway(collection: Collection) -> None:
    release_id = collection.publish()
    one = examiner(collection)
    failed: list[BaseException] = []

    def examine() -> None:
        try:
            while True:
                one.examine(release_id, None)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=examine)
    thread.start()
    one.close()
    thread.join(60)
    assert not thread.is_alive() and failed


def test_where_there_is_no_spare_time_it_is_examined_as_other_work_is(
    collection: Collection, monkeypatch, caplog
) -> None:
    release_id = collection.publish()
    monkeypatch.setattr(examination, "_PATIENCE_SECONDS", 1.0)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    # On the one core that the examining process may use, too.
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert examiner(collection).examine(release_id, None).rows
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, cores)
    assert "there is too little of it" in caplog.text
