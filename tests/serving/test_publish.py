import dataclasses
import multiprocessing
import pathlib
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.index import IndexParameters
from serving.release import layout
from serving.release.current import read_current, write_current
from serving.release.encoder_info import list_files, tree_digest
from serving.release.lease import LeaseHeld, LeaseLost, hold_lease
from serving.release.manifest import GoldenQuery, ManifestError
from serving.release.publish import PublishRefused
from serving.release.reader import open_release, read_manifest
from serving.release.verify import ReleaseRefused
from serving.storage import LocalStore, Store, open_store
from tests.serving.killed import killed_at_every_change
from tests.serving.release_builder import (
    build_release,
    make_body,
    make_items,
    publish_release,
    unit_vectors,
)

EXACT = IndexParameters("exact")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "root"


def versions(root: pathlib.Path) -> list[str]:
    return open_store(root).folders("encoders/encoder")


def releases(root: pathlib.Path) -> list[str]:
    return open_store(root).folders("releases")


def check_no_debris(root: pathlib.Path) -> None:
    assert not [path for path in root.rglob("*.tmp")]
    assert all((root / "releases" / name / "release.json").is_file() for name in releases(root))
    assert all((root / "encoders" / "encoder" / name / "saved_model.pb").is_file() for name in versions(root))
    assert len(list((root / "LEASE").iterdir())) == 1
    assert sorted(path.name for path in root.iterdir()) == ["CURRENT", "LEASE", "encoders", "releases"]


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    store = open_store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def test_a_release_is_what_was_published(store: Store, tmp_path: pathlib.Path) -> None:
    before = time.time()
    published = publish_release(
        store.uri,
        tmp_path / "work",
        shards=2,
        evaluation={"recall_at_10": 0.995},
        lineage={"run": "r1", "spans": [1, 2]},
    )
    manifest = published.manifest
    assert not published.unchanged
    assert read_current(store) == published.release_id == manifest.release_id
    assert read_manifest(store, published.release_id) == manifest
    assert before <= manifest.created <= time.time()
    assert manifest.parent is None
    assert (manifest.encoder.model, manifest.encoder.dimension, manifest.encoder.normalised) == ("encoder", 8, True)
    assert manifest.encoder.digest == tree_digest(list_files(tmp_path / "work" / "encoder"))
    assert (manifest.index.kind, manifest.index.count, len(manifest.index.shards)) == ("brute_force", 50, 2)
    assert manifest.evaluation == {"recall_at_10": 0.995}
    assert manifest.lineage == {"run": "r1", "spans": [1, 2]}
    assert len(manifest.golden) == 10
    open_release(store, published.release_id, cache=tmp_path / "cache").close()


def test_inputs_stay_as_they_are(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    publish_release(root, tmp_path / "first")
    before = list_files(tmp_path / "first")
    publish_release(root, tmp_path / "first" / "second", encoder_seed=1)
    shutil.rmtree(tmp_path / "first" / "second")
    assert list_files(tmp_path / "first") == before


def test_the_same_again_changes_nothing(store: Store, tmp_path: pathlib.Path) -> None:
    first = publish_release(store.uri, tmp_path / "first")
    before = [stat for stat in store.files("") if not stat.path.startswith("LEASE")]
    again = publish_release(store.uri, tmp_path / "again", lineage={"run": "another"}, evaluation={"seconds": 5})
    assert again.unchanged
    assert (again.release_id, again.manifest) == (first.release_id, first.manifest)
    assert [stat for stat in store.files("") if not stat.path.startswith("LEASE")] == before


def test_another_index_with_the_same_encoder(store: Store, tmp_path: pathlib.Path) -> None:
    first = publish_release(store.uri, tmp_path / "first")
    second = publish_release(store.uri, tmp_path / "second", seed=1)
    assert not second.unchanged
    assert second.manifest.parent == first.release_id
    assert second.manifest.encoder == first.manifest.encoder
    assert len(store.folders("encoders/encoder")) == 1


def test_versions_strictly_increase(root: pathlib.Path) -> None:
    for seed, now in enumerate((1000.0, 1000.0, 500.0, 2000.5)):
        build_release(root, encoder_seed=seed, clock=lambda now=now: now)
    assert versions(root) == ["1000", "1001", "1002", "2000"]
    # The first encoder again is the first version again.
    release = build_release(root, encoder_seed=0)
    assert read_manifest(open_store(root), release).encoder.version == 1000


def test_a_damaged_encoder_is_not_taken_up(root: pathlib.Path) -> None:
    build_release(root, clock=lambda: 1000.0)
    (root / "encoders" / "encoder" / "1000" / "saved_model.pb").write_bytes(b"model 1")
    release = build_release(root, seed=1, clock=lambda: 1000.0)
    assert read_manifest(open_store(root), release).encoder.version == 1001
    open_release(open_store(root), release).close()


def test_a_damaged_release_is_published_again(root: pathlib.Path) -> None:
    first = build_release(root)
    (root / "releases" / first / layout.items_file(0, 1)).unlink()
    second = build_release(root)
    assert second != first
    open_release(open_store(root), second).close()


def test_after_a_rollback_the_parent_is_what_current_names(root: pathlib.Path) -> None:
    first, _ = build_release(root), build_release(root, seed=1)
    write_current(open_store(root), first)
    third = build_release(root, seed=2)
    assert read_manifest(open_store(root), third).parent == first


# What does not belong together


def refused(root: pathlib.Path, error: type[Exception], message: str, **options: Any) -> None:
    with pytest.raises(error, match=message):
        build_release(root, **options)
    assert not root.exists(), "nothing may be written for what is refused"


def test_an_index_of_another_encoder_is_refused(root: pathlib.Path) -> None:
    refused(root, PublishRefused, "was embedded by the encoder 0{64}, but this one is", encoder_digest="0" * 64)


def test_an_encoder_of_another_dimension_is_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    body = make_body(tmp_path / "body", make_items(5), unit_vectors(5, 9))
    refused(root, ReleaseRefused, r"holds float32 \(5, 9\), expected float32 \(5, 8\)", body=body)


def test_too_little_recall_is_refused(root: pathlib.Path) -> None:
    narrow = IndexParameters("tree", leaves=50, leaves_to_search=1)
    refused(root, ReleaseRefused, "recall on the golden queries is 0", n=1000, parameters=narrow)


def test_golden_queries_that_are_not_held_are_refused(root: pathlib.Path) -> None:
    refused(root, ReleaseRefused, "'x' names an item", golden=[GoldenQuery("x", ("image-0001.png",))])


def test_an_encoder_that_is_not_complete_is_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "saved_model.pb").write_bytes(b"model")
    digest = tree_digest(list_files(tmp_path / "bare"))
    options = {"encoder": tmp_path / "bare", "encoder_digest": digest}
    refused(root, PublishRefused, "it has no assets.extra/lookalike_encoder.json", **options)


def test_a_name_that_is_no_folder_is_refused(root: pathlib.Path) -> None:
    refused(root, ManifestError, "model name must match", model="../encoder")


def test_shards_of_different_kinds_are_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    body = make_body(tmp_path / "body", make_items(20), unit_vectors(20, 8), shards=2)
    other = make_body(tmp_path / "other", make_items(20), unit_vectors(20, 8), shards=2, parameters=EXACT)
    shutil.rmtree(body / layout.index_folder(1, 2))
    shutil.copytree(other / layout.index_folder(1, 2), body / layout.index_folder(1, 2))
    refused(root, PublishRefused, "were built with different parameters", body=body)


# Others who publish


def test_while_another_publishes(root: pathlib.Path) -> None:
    store = open_store(root)
    with hold_lease(store, "another"), pytest.raises(LeaseHeld, match="another holds lease 1"):
        build_release(root)
    assert read_current(store) is None


def test_waiting_for_another(root: pathlib.Path) -> None:
    store = open_store(root)
    other = hold_lease(store, "another")
    other.__enter__()
    threading.Timer(0.3, other.__exit__, (None, None, None)).start()
    assert read_current(store) is None
    assert build_release(root, wait_seconds=10) == read_current(store)


def _publish(root: pathlib.Path, seed: int, barrier: Any) -> None:
    barrier.wait()
    build_release(root, seed=seed, encoder_seed=seed, parameters=EXACT, wait_seconds=60)


def test_two_processes_at_once_come_one_after_the_other(tmp_path: pathlib.Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    root = tmp_path / "root"
    # Each with inputs in a folder of its own, at one serving root.
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "root").symlink_to(root)
    root.mkdir()
    processes = [
        context.Process(target=_publish, args=(tmp_path / name / "root", seed, barrier))
        for seed, name in enumerate(("a", "b"))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = open_store(root)
    current = read_current(store)
    assert current is not None
    parent = read_manifest(store, current).parent
    assert parent is not None and read_manifest(store, parent).parent is None
    assert len(versions(root)) == len(releases(root)) == 2
    check_no_debris(root)


class InterruptedStore(LocalStore):
    """Does something else right before a path is written."""

    def __init__(self, root: pathlib.Path, path: str, action: Any) -> None:
        super().__init__(root)
        self._path = path
        self._action = action

    def write(self, path: str, data: bytes) -> None:
        if path.endswith(self._path) and self._action:
            action, self._action = self._action, None
            action()
        super().write(path, data)


def test_who_lost_the_lease_does_not_publish(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_release(root, clock=lambda: 1000.0)
    other = []

    def take_over() -> None:
        monkeypatch.undo()
        other.append(build_release(root, seed=2, clock=lambda: 5000.0))

    slow = InterruptedStore(root, "release.json", take_over)
    monkeypatch.setattr("tests.serving.release_builder.open_store", lambda _: slow)
    # The slow one's clock stands still: only the number tells.
    with pytest.raises(LeaseLost, match="was taken over by lease 3"):
        build_release(root, seed=1, encoder_seed=1, clock=lambda: 1000.0)
    assert [read_current(open_store(root))] == other
    open_release(open_store(root), other[0]).close()
    # And what it left behind is no hindrance.
    build_release(root, seed=3)
    assert not [path for path in root.rglob("*.tmp")]


def test_who_took_too_long_does_not_publish(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_release(root)
    now = [time.time()]
    slow = InterruptedStore(root, "release.json", lambda: now.__setitem__(0, now[0] + 301))
    monkeypatch.setattr("tests.serving.release_builder.open_store", lambda _: slow)
    with pytest.raises(LeaseLost, match="has run out after 300 s"):
        build_release(root, seed=1, clock=lambda: now[0])
    assert read_current(open_store(root)) == first


def test_current_changed_underneath_is_refused(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = build_release(root), build_release(root, seed=1)
    by_hand = InterruptedStore(root, "release.json", lambda: write_current(open_store(root), first))
    monkeypatch.setattr("tests.serving.release_builder.open_store", lambda _: by_hand)
    with pytest.raises(PublishRefused, match=f"CURRENT was {second} and is {first} now"):
        build_release(root, seed=2)
    assert read_current(open_store(root)) == first


# Dying


def debris(root: pathlib.Path) -> None:
    store = open_store(root)
    tag = uuid.uuid4().hex
    for path in (
        f"releases/half/{layout.items_file(0, 1)}",
        f".CURRENT.{tag}.tmp",
        f"LEASE/.000000000009.{tag}.tmp",
        f"encoders/encoder/.77.{tag}.tmp/saved_model.pb",
        "encoders/encoder/78/variables/half",
        f"releases/.gone.{tag}.tmp/release.json",
    ):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    store.write("embeddings-cache/abc/00.npy", b"")


def test_debris_is_cleaned_and_the_rest_is_left(root: pathlib.Path) -> None:
    build_release(root)
    debris(root)
    # Whole, but of no release: that is for prune.
    shutil.copytree(root / "encoders" / "encoder" / versions(root)[0], root / "encoders" / "encoder" / "79")
    build_release(root, seed=1)
    assert (root / "embeddings-cache" / "abc" / "00.npy").exists()
    assert (root / "encoders" / "encoder" / "79").exists()
    shutil.rmtree(root / "embeddings-cache")
    check_no_debris(root)
    assert len(releases(root)) == 2


@dataclasses.dataclass
class Saved:
    """A serving root, and what to set it back to."""

    root: pathlib.Path
    template: pathlib.Path

    def reset(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        if self.template.exists():
            shutil.copytree(self.template, self.root)


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True], ids=["over a release", "the first release"])
def test_killed_at_any_step(tmp_path: pathlib.Path, first: bool) -> None:
    saved = Saved(tmp_path / "root", tmp_path / "template")
    old = None if first else build_release(saved.template, parameters=EXACT, n=12)
    # The same inputs at every attempt, as a pipeline's artifacts are.
    new = publish_release(tmp_path / "other", tmp_path / "new", seed=1, encoder_seed=1, parameters=EXACT, n=12).manifest
    different = publish_release(
        tmp_path / "other", tmp_path / "different", seed=2, encoder_seed=2, parameters=EXACT, n=12
    )

    def publish_again(work: str) -> str:
        from tests.serving import release_builder

        items, encoder = make_items(12), tmp_path / work / "encoder"
        manifest = new if work == "new" else different.manifest
        return release_builder.publish(
            open_store(saved.root),
            encoder=encoder,
            body=tmp_path / work / "body",
            model="encoder",
            encoder_digest=manifest.encoder.digest,
            golden=manifest.golden,
            golden_recall=manifest.golden_recall,
            evaluation={"items": len(items)},
            lineage={},
            holder="test",
        ).release_id

    saved.reset()
    steps = []
    for step in killed_at_every_change(saved.root, lambda: publish_again("new")):
        steps.append(step)
        store = open_store(saved.root)
        current = read_current(store)
        if current is not None:
            open_release(store, current).close()
        assert current == old or read_manifest(store, current or "").index == new.index
        died = tmp_path / "died"
        shutil.copytree(saved.root, died) if saved.root.exists() else died.mkdir()

        # The same again: it takes up what is whole, and leaves nothing else.
        release = publish_again("new")
        assert read_current(store) == release
        open_release(store, release).close()
        check_no_debris(saved.root)
        assert len(releases(saved.root)) == len(versions(saved.root)) == (1 if first else 2)

        # Something else: what was whole may stay for prune, what was half is gone.
        shutil.rmtree(saved.root)
        died.rename(saved.root)
        release = publish_again("different")
        assert read_current(store) == release
        open_release(store, release).close()
        check_no_debris(saved.root)
        saved.reset()
    assert read_manifest(open_store(saved.root), read_current(open_store(saved.root)) or "").index == new.index
    # Each of these was the next step at some death.
    for name in ("LEASE/", "encoders/encoder/", "saved_model.pb", "items/", "index/", "embeddings/", "release.json"):
        assert [step for step in steps if name in step], name
    assert [step for step in steps if step.startswith("os.rename") and step.endswith("/CURRENT")]


def test_the_body_is_copied_and_not_linked(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    published = publish_release(root, tmp_path / "work")
    file = tmp_path / "work" / "body" / layout.embeddings_file(0, 1)
    np.save(file, np.zeros((50, 8), np.float32))
    open_release(open_store(root), published.release_id).close()
