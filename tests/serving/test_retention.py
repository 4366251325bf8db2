import concurrent.futures
import json
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import pytest

from serving.index import IndexParameters
from serving.release import layout
from serving.release.current import read_current, write_current
from serving.release.lease import LeaseHeld, hold_lease
from serving.release.manifest import content_sha256
from serving.release.reader import open_release, read_manifest
from serving.release.retention import Pruned, list_releases, prune, rollback
from serving.release.verify import ReleaseRefused
from serving.storage import Store, open_store
from tests.serving.killed import killed_at_every_change
from tests.serving.release_builder import build_release, publish_release

EXACT = IndexParameters("exact")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Store]:
    store = open_store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def history(store: Store, work: pathlib.Path, encoders: tuple[int, ...]) -> list[str]:
    """Publishes a release an hour, each with the encoder of that seed; returns their ids."""
    return [
        publish_release(
            store.uri,
            work / str(number),
            seed=number,
            encoder_seed=encoder,
            parameters=EXACT,
            n=12,
            clock=lambda number=number: 3600.0 * (number + 1),
        ).release_id
        for number, encoder in enumerate(encoders)
    ]


def releases(store: Store) -> list[str]:
    return [release.release_id for release in list_releases(store)]


def delete(store: Store, **options: object) -> Pruned:
    # The files are as old as this test, so the clock is far beyond it.
    arguments = {"keep": 1, "grace_seconds": 0, "holder": "test", "clock": lambda: 1e11, **options}
    return prune(store, **arguments)  # type: ignore[arg-type]


def test_no_releases(store: Store) -> None:
    assert list_releases(store) == []
    assert delete(store) == Pruned((), ())


def test_releases_are_listed_newest_first(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 0, 1))
    write_current(store, ids[1])
    store.write(f"releases/half/{layout.items_file(0, 1)}", b"")
    store.write("releases/broken/release.json", b"{}")
    listed = list_releases(store)
    assert [release.release_id for release in listed] == [*ids[::-1], "broken"]
    assert [release.current for release in listed] == [False, True, False, False]
    assert listed[0].manifest == read_manifest(store, ids[2])
    assert listed[-1].manifest is None
    assert "not a release manifest" in listed[-1].problem


def test_rollback_and_back_again(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 1))
    assert rollback(store, ids[0], holder="test", cache=tmp_path / "cache") == ids[1]
    assert read_current(store) == ids[0]
    assert rollback(store, ids[0], holder="test", cache=tmp_path / "cache") == ids[0]
    assert rollback(store, ids[1], holder="test", cache=tmp_path / "cache") == ids[0]
    assert read_current(store) == ids[1]


def test_no_rollback_to_what_must_not_be_served(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 1))
    store.write(f"releases/{ids[0]}/{layout.embeddings_file(0, 1)}", b"")
    with pytest.raises(ReleaseRefused, match="has 0 bytes"):
        rollback(store, ids[0], holder="test", cache=tmp_path / "cache")
    with pytest.raises(FileNotFoundError):
        rollback(store, "no-such-release", holder="test", cache=tmp_path / "cache")
    assert read_current(store) == ids[1]


def test_nobody_changes_what_another_is_changing(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 1))
    with hold_lease(store, "publisher"):
        with pytest.raises(LeaseHeld, match="publisher holds"):
            rollback(store, ids[0], holder="test", cache=tmp_path / "cache")
        with pytest.raises(LeaseHeld, match="publisher holds"):
            prune(store, keep=1, grace_seconds=0, holder="test")
    assert releases(store) == ids[::-1]


def test_prune_keeps_the_newest_and_their_encoders(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 1, 1, 2))
    versions = sorted(store.folders("encoders/encoder"), key=int)
    assert len(versions) == 3
    dry = delete(store, keep=2, dry_run=True)
    assert releases(store) == ids[::-1]
    pruned = delete(store, keep=2)
    assert dry == pruned == Pruned((ids[1], ids[0]), (f"encoders/encoder/{versions[0]}",))
    assert releases(store) == [ids[3], ids[2]]
    assert sorted(store.folders("encoders/encoder"), key=int) == versions[1:]
    assert [stat for stat in store.files(f"releases/{ids[0]}")] == []
    for release_id in ids[2:]:
        open_release(store, release_id, cache=tmp_path / "cache").close()
    assert delete(store, keep=2) == Pruned((), ())


def test_prune_keeps_the_current_release_however_old(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 1, 2))
    write_current(store, ids[0])
    pruned = delete(store, keep=1)
    assert pruned.releases == (ids[1],)
    assert releases(store) == [ids[2], ids[0]]
    for release_id in (ids[0], ids[2]):
        open_release(store, release_id, cache=tmp_path / "cache").close()


def test_prune_keeps_what_is_younger_than_the_grace_period(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 1, 2))
    # Releases were made at 1, 2 and 3 hours; the encoders' files at whatever time it is.
    pruned = prune(store, keep=1, grace_seconds=5400.0, holder="test", clock=lambda: 3 * 3600.0)
    assert pruned == Pruned((ids[0],), ())
    assert len(store.folders("encoders/encoder")) == 3
    # An encoder of no release, as a publisher that was killed leaves it.
    for stat in [*store.files("encoders/encoder")]:
        parts = stat.path.split("/")
        store.write("/".join([*parts[:2], "99", *parts[3:]]), store.read(stat.path))
    assert delete(store, keep=2, grace_seconds=1e11).encoders == ()
    assert "encoders/encoder/99" in delete(store, keep=2, grace_seconds=0).encoders


def test_prune_deletes_no_encoder_while_a_release_can_not_be_read(store: Store, tmp_path: pathlib.Path) -> None:
    ids = history(store, tmp_path, (0, 1, 2))
    store.write(f"releases/{ids[1]}/release.json", b"{}")
    pruned = delete(store, keep=1)
    assert pruned == Pruned((ids[0],), ())
    assert len(store.folders("encoders/encoder")) == 3
    assert set(store.folders("releases")) == {ids[1], ids[2]}


def test_prune_leaves_what_is_not_ours(store: Store, tmp_path: pathlib.Path) -> None:
    history(store, tmp_path, (0,))
    store.write("encoders/encoder/readme/text", b"")
    store.write("encoders/encoder/readme/saved_model.pb", b"")
    store.write("embeddings-cache/abc/1.npy", b"")
    store.write("notes", b"")
    assert delete(store) == Pruned((), ())
    assert [s.path for s in store.files("") if s.path.split("/")[0] in ("notes", "embeddings-cache")] == [
        "embeddings-cache/abc/1.npy",
        "notes",
    ]
    assert store.exists("encoders/encoder/readme/text")


@pytest.mark.parametrize(
    ("keep", "grace", "message"), [(0, 0, "keep must be at least 1"), (1, -1, "grace_seconds must")]
)
def test_wrong_arguments(store: Store, keep: int, grace: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(store, keep=keep, grace_seconds=grace, holder="test")


@pytest.mark.slow
def test_killed_while_pruning(tmp_path: pathlib.Path) -> None:
    root, template = tmp_path / "root", tmp_path / "template"
    ids = history(open_store(template), tmp_path / "work", (0, 1, 2))
    shutil.copytree(template, root)
    store = open_store(root)
    steps = 0
    for step in killed_at_every_change(root, lambda: delete(store, keep=1)):
        steps += 1
        assert read_current(store) == ids[2], step
        for release in list_releases(store):
            open_release(store, release.release_id).close()
        delete(store, keep=1)
        assert (store.folders("releases"), len(store.folders("encoders/encoder"))) == ([ids[2]], 1), step
        assert not [*root.rglob("*.tmp")], step
        shutil.rmtree(root)
        shutil.copytree(template, root)
    assert steps > 12


@pytest.mark.slow
def test_killed_while_rolling_back(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    ids = history(open_store(root), tmp_path / "work", (0, 1))
    store = open_store(root)
    for _ in killed_at_every_change(root, lambda: rollback(store, ids[0], holder="test")):
        current = read_current(store)
        assert current in ids
        open_release(store, current).close()
        rollback(store, ids[1], holder="test")
        assert read_current(store) == ids[1]


def test_a_reader_that_is_open_survives_prune(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "root"
    old = build_release(root, clock=lambda: 1000.0)
    release = open_release(open_store(root), old)
    build_release(root, seed=1)
    prune(open_store(root), keep=1, grace_seconds=0, holder="test")
    assert old not in releases(open_store(root))
    vector = release.embedding("image-0001.png")
    assert vector is not None
    assert len(release.search(vector, 50)) == 50
    # Also from threads that never searched before.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [len(found) for found in pool.map(lambda k: release.search(vector, k), range(1, 51))] == [*range(1, 51)]
    release.close()


def test_a_manifest_with_an_unknown_parent_is_listed(store: Store, tmp_path: pathlib.Path) -> None:
    [release_id] = history(store, tmp_path, (0,))
    path = f"releases/{release_id}/release.json"
    value = {**json.loads(store.read(path)), "parent": "pruned-long-ago"}
    value["sha256"] = content_sha256({name: part for name, part in value.items() if name != "sha256"})
    store.write(path, json.dumps(value).encode())
    assert [r.manifest.parent for r in list_releases(store) if r.manifest] == ["pruned-long-ago"]
