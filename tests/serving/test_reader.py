import concurrent.futures
import dataclasses
import json
import pathlib
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.index import IndexParameters
from serving.release import layout
from serving.release.encoder_info import Probe, list_files, tree_digest
from serving.release.items import Item, ItemShard, write_items
from serving.release.manifest import content_sha256
from serving.release.reader import Release, check_encoder, open_release
from serving.release.verify import ReleaseRefused
from serving.storage import Store, open_store
from tests.serving.release_builder import (
    build_release,
    make_items,
    png,
    publish_release,
    unit_vectors,
)

TREE = IndexParameters("tree", leaves=4, leaves_to_search=4)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "root"


def release_of(root: pathlib.Path, **options: Any) -> Release:
    return open_release(open_store(root), build_release(root, **options))


# Searching


def expected(
    items: list[Item], embeddings: npt.NDArray[np.float32], query: npt.NDArray[np.float32], k: int, exclude: str | None
) -> list[tuple[str, float]]:
    """The oracle: every score in Python, ties by item id."""
    unit = (query / np.linalg.norm(query)).astype(np.float32)
    scores = [float(np.clip((embedding * unit).sum(), -1, 1)) for embedding in embeddings]
    named = zip(scores, [item.item_id for item in items], strict=True)
    ordered = sorted((-score, name) for score, name in named if name != exclude)
    return [(name, -score) for score, name in ordered[:k]]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "parameters",
    [
        IndexParameters("exact"),
        IndexParameters("brute_force"),
        TREE,
        IndexParameters("tree", leaves=4, leaves_to_search=4, scoring="hash", reorder=300),
    ],
    ids=lambda parameters: f"{parameters.kind}-{parameters.scoring}",
)
def test_search_is_exact(root: pathlib.Path, shards: int, parameters: IndexParameters) -> None:
    items, embeddings = make_items(120), unit_vectors(120, 8)
    # Half of all are in twos and threes, which must come in the order of their ids.
    embeddings[80:] = embeddings[np.arange(40) // 2]
    release = release_of(root, items=items[::-1], embeddings=embeddings[::-1], shards=shards, parameters=parameters)
    for query in (*unit_vectors(2, 8, seed=9), embeddings[0], embeddings[119] * 7):
        for k in (1, 10, 119, 1000):
            for exclude in (None, "image-0000.png", "no such image"):
                found = release.search(query, k, exclude=exclude)
                wanted = expected(items, embeddings, query, k, exclude)
                assert [n.item.item_id for n in found] == [name for name, _ in wanted]
                np.testing.assert_allclose([n.score for n in found], [score for _, score in wanted], atol=1e-6)
    release.close()


@pytest.mark.parametrize("shards", [1, 2])
def test_all_equal_are_ordered_by_id(root: pathlib.Path, shards: int) -> None:
    items = make_items(3000)
    order = np.random.default_rng(0).permutation(3000)
    embeddings = np.tile(unit_vectors(1, 8), (3000, 1))
    release = release_of(root, items=[items[i] for i in order], embeddings=embeddings, shards=shards)
    found = release.search(embeddings[0], 10, exclude="image-0003.png")
    assert [n.item.item_id for n in found] == [f"image-{i:04d}.png" for i in range(11) if i != 3]
    assert len({n.score for n in found}) == 1


def test_a_neighbour_brings_its_item_without_the_thumbnail(root: pathlib.Path) -> None:
    items = make_items(10)
    release = release_of(root, items=items, embeddings=unit_vectors(10, 8))
    [found] = release.search(release.embedding("image-0004.png"), 1)
    assert found.item == dataclasses.replace(items[4], thumbnail=b"")
    assert found.score == pytest.approx(1, abs=1e-6)


def test_scores_stay_in_range(root: pathlib.Path) -> None:
    release = release_of(root, n=60, dimension=3)
    for row in range(60):
        vector = release.embedding(f"image-{row:04d}.png")
        assert vector is not None
        for sign in (1, -1):
            assert all(-1 <= n.score <= 1 for n in release.search(sign * vector, 60))


@pytest.mark.parametrize("shards", [1, 2])
def test_one_item(root: pathlib.Path, shards: int) -> None:
    # With two shards one of them is empty.
    release = release_of(root, n=1, shards=shards)
    vector = unit_vectors(1, 8, seed=5)[0]
    assert [n.item.item_id for n in release.search(vector, 10)] == ["image-0000.png"]
    assert release.search(vector, 10, exclude="image-0000.png") == []
    assert release.get_item("image-0001.png") is None


@pytest.mark.parametrize("shards", [1, 3])
def test_items_and_embeddings_by_id(root: pathlib.Path, shards: int) -> None:
    items, embeddings = make_items(20), unit_vectors(20, 8)
    release = release_of(root, items=items, embeddings=embeddings, shards=shards)
    for item, embedding in zip(items, embeddings, strict=True):
        assert release.get_item(item.item_id, thumbnail=True) == item
        assert release.get_item(item.item_id) == dataclasses.replace(item, thumbnail=b"")
        np.testing.assert_array_equal(release.embedding(item.item_id), embedding)
    assert release.get_item("nothing") is None
    assert release.embedding("nothing") is None
    changed = release.embedding("image-0000.png")
    assert changed is not None
    changed[:] = 0  # a copy
    np.testing.assert_array_equal(release.embedding("image-0000.png"), embeddings[0])


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(7), r"must have 8 values, got shape \(7,\)"),
        (np.ones((1, 8)), r"got shape \(1, 8\)"),
        (np.zeros(8), "must be finite and not all zero, got a length of 0.0"),
        (np.array([np.nan, *[0.0] * 7]), "got a length of nan"),
        (np.array([np.inf, *[0.0] * 7]), "got a length of inf"),
        (np.array([1e300, *[0.0] * 7]), "got a length of inf"),
    ],
)
def test_what_is_no_query(root: pathlib.Path, vector: npt.NDArray[Any], message: str) -> None:
    release = release_of(root)
    with pytest.raises(ValueError, match=message):
        release.search(vector, 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        release.search(np.ones(8), 0)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 3e38])
def test_a_vector_of_any_length_is_a_query(root: pathlib.Path, scale: float) -> None:
    release = release_of(root)
    vector = np.zeros(8, np.float32)
    vector[2] = 1
    plain = release.search(vector, 5)
    assert [n.item.item_id for n in release.search(vector * np.float32(scale), 5)] == [n.item.item_id for n in plain]


def test_many_threads_search(root: pathlib.Path) -> None:
    release = release_of(root, n=500, shards=2)
    queries = unit_vectors(200, 8, seed=3)
    alone = [release.search(query, 10) for query in queries]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: release.search(query, 10), queries)) == alone
    release.close()


# Refusing


def flip(file: pathlib.Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_a_flipped_byte_anywhere_is_refused(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    release_id = build_release(root, shards=2, parameters=TREE)
    store = open_store(root)
    open_release(store, release_id).close()
    files = [f for f in root.rglob("*") if f.is_file() and f.parts[len(root.parts)] in ("releases", "encoders")]
    assert len(files) == 1 + 2 * (1 + 1 + 4) + 4
    for file in files:
        whole = file.read_bytes()
        flip(file)
        named = "encoder encoder version" if "encoders" in file.parts else file.name
        with pytest.raises(ReleaseRefused, match=named):
            open_release(store, release_id)
        file.write_bytes(whole)
    open_release(store, release_id).close()


def test_every_byte_of_the_manifest_counts(root: pathlib.Path) -> None:
    release_id = build_release(root, n=3)
    store, file = open_store(root), root / "releases" / release_id / "release.json"
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 1
        file.write_bytes(bytes(data))
        with pytest.raises(ReleaseRefused, match=r"release\.json"):
            open_release(store, release_id)


def test_missing_and_shortened_files_are_refused(root: pathlib.Path) -> None:
    release_id = build_release(root)
    store, folder = open_store(root), root / "releases" / release_id
    for file in [f for f in folder.rglob("*") if f.is_file() and f.name != "release.json"]:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        with pytest.raises(ReleaseRefused, match=f"{file.name} has {len(whole) - 1} bytes, the manifest says"):
            open_release(store, release_id)
        file.unlink()
        with pytest.raises(ReleaseRefused, match=f"{file.name} is missing"):
            open_release(store, release_id)
        file.write_bytes(whole)


def test_no_release_yet_is_a_passing_fault(root: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_release(open_store(root), "r1")
    with pytest.raises(ValueError, match="release id must match"):
        open_release(open_store(root), "../r1")


def test_a_release_under_another_name_is_refused(root: pathlib.Path) -> None:
    release_id = build_release(root)
    shutil.copytree(root / "releases" / release_id, root / "releases" / "copy")
    with pytest.raises(ReleaseRefused, match=f"is that of {release_id}"):
        open_release(open_store(root), "copy")


def test_a_swapped_encoder_is_refused(root: pathlib.Path) -> None:
    first = build_release(root)
    second = build_release(root, encoder_seed=1)
    store = open_store(root)
    versions = [store.folders("encoders/encoder")[i] for i in (0, 1)]
    base = root / "encoders" / "encoder"
    (base / versions[0]).rename(base / "aside")
    (base / versions[1]).rename(base / versions[0])
    with pytest.raises(ReleaseRefused, match=f"encoder encoder version {versions[0]} has digest"):
        open_release(store, first)
    with pytest.raises(ReleaseRefused, match=f"encoder encoder version {versions[1]} is missing"):
        open_release(store, second)


def test_a_file_too_many_in_the_encoder_is_refused(root: pathlib.Path) -> None:
    release_id = build_release(root)
    store = open_store(root)
    store.write(f"encoders/encoder/{store.folders('encoders/encoder')[0]}/assets/surprise", b"")
    with pytest.raises(ReleaseRefused, match="has digest"):
        open_release(store, release_id)


Change = Callable[[dict[str, Any], pathlib.Path], None]


def lie(root: pathlib.Path, change: Change, **options: Any) -> None:
    """Changes a release and gives the manifest the right digests of what was changed; opens it."""
    release_id = build_release(root, **options)
    folder = root / "releases" / release_id
    value = json.loads((folder / "release.json").read_bytes())
    change(value, folder)
    for shard in value["index"]["shards"]:
        for entry in shard["files"]:
            [now] = [e for e in list_files((folder / entry["path"]).parent) if e.path == entry["path"].split("/")[-1]]
            entry.update(size=now.size, sha256=now.sha256)
    version = value["encoder"]["version"]
    value["encoder"]["digest"] = tree_digest(list_files(root / "encoders" / "encoder" / str(version)))
    value["sha256"] = content_sha256({name: part for name, part in value.items() if name != "sha256"})
    (folder / "release.json").write_text(json.dumps(value))
    open_release(open_store(root), release_id).close()


def edit(path: str, to: Any) -> Change:
    def change(value: dict[str, Any], folder: pathlib.Path) -> None:
        *folders, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        place: Any = value
        for part in folders:
            place = place[part]
        place[last] = to(place[last]) if callable(to) else to

    return change


def embeddings(change: Callable[[npt.NDArray[Any]], Any]) -> Change:
    def apply(value: dict[str, Any], folder: pathlib.Path) -> None:
        file = folder / layout.embeddings_file(0, 1)
        changed = np.load(file)
        np.save(file, change(changed))

    return apply


def row(index: int, to: float) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array[index] = array[index] * to
        return array

    return change


def items(change: Callable[[list[Item]], list[Item]]) -> Change:
    def apply(value: dict[str, Any], folder: pathlib.Path) -> None:
        file = folder / layout.items_file(0, 1)
        shard = ItemShard(file)
        changed = change(list(shard))
        shard.close()
        file.unlink()
        write_items(file, changed)

    return apply


def sql(statement: str) -> Change:
    def apply(value: dict[str, Any], folder: pathlib.Path) -> None:
        with sqlite3.connect(folder / layout.items_file(0, 1)) as connection:
            connection.executescript(statement)

    return apply


def parameters_file(to: bytes) -> Change:
    def apply(value: dict[str, Any], folder: pathlib.Path) -> None:
        (folder / layout.index_folder(0, 1) / "parameters.json").write_bytes(to)

    return apply


def counts(to: int) -> Change:
    def apply(value: dict[str, Any], folder: pathlib.Path) -> None:
        value["index"]["count"] = value["index"]["shards"][0]["count"] = to

    return apply


def test_an_honest_change_opens(root: pathlib.Path) -> None:
    lie(root, lambda value, folder: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (counts(49), r"holds float32 \(50, 8\), expected float32 \(49, 8\)"),
        (edit("encoder/dimension", 9), "has dimension 8 and normalised True, the manifest says 9 and True"),
        (edit("encoder/normalised", False), "the manifest says 8 and False"),
        (edit("encoder/version", lambda version: version + 1), "is missing"),
        (edit("encoder/model", "other"), "encoder other version .* is missing"),
        (edit("index/parameters/leaves", 2), r"index/shard-00000-of-00001: .* was built with"),
        (edit("index/parameters/leaves", 0), r"index\.parameters: leaves must be"),
        (edit("index/parameters/surprise", 1), r"index\.parameters: unknown index parameters: surprise"),
        (embeddings(lambda array: array.astype(np.float64)), "holds float64"),
        (embeddings(lambda array: np.asfortranarray(array)), r"holds float32 \(50, 8\), expected"),
        (embeddings(lambda array: array[:, :7]), r"holds float32 \(50, 7\), expected float32 \(50, 8\)"),
        (embeddings(row(7, np.nan)), "row 7 has length nan, expected 1"),
        (embeddings(row(8, np.inf)), "row 8 has length (nan|inf), expected 1"),
        (embeddings(row(9, 0.0)), "row 9 has length 0.0, expected 1"),
        (embeddings(row(49, 1.01)), "row 49 has length 1.0[0-9]*, expected 1"),
        (embeddings(lambda array: array[::-1].copy()), "neighbours of golden query|recall on the golden"),
        (items(lambda items: items[:-1]), "holds 49 items, the manifest says 50"),
        (items(lambda items: items[::-1]), "neighbours of golden query|recall on the golden"),
        (sql("UPDATE items SET row = 100 WHERE row = 49"), r"has a row 100, expected rows in \[0, 50\)"),
        (sql("DROP TABLE attributes"), "no such table: attributes"),
        (sql("DROP TABLE items"), "no such table: items"),
        (parameters_file(b"{}"), "index/shard-00000-of-00001: 'count'"),
        (parameters_file(b"no json"), "index/shard-00000-of-00001: Expecting value"),
        (parameters_file(b"[]"), "index/shard-00000-of-00001"),
        (edit("golden/0/item_id", "nothing"), "golden query 'nothing' names an item that the release doesn't hold"),
        (edit("golden/0/neighbors/4", "nothing"), "names an item that the release doesn't hold"),
        (
            edit("golden/0/neighbors", [f"image-{i:04d}.png" for i in range(44, 49)]),
            r"neighbours of golden query 'image-0000\.png' are not its nearest",
        ),
    ],
)
def test_a_release_that_lies_is_refused_with_a_reason(root: pathlib.Path, change: Change, message: str) -> None:
    with pytest.raises(ReleaseRefused, match=message):
        lie(root, change)


def test_what_is_no_array_or_no_database_is_refused(root: pathlib.Path) -> None:
    for path in (layout.embeddings_file(0, 1), layout.items_file(0, 1)):
        for data in (b"", b"\x80\x04N.", b"no such thing" * 100):
            with pytest.raises(ReleaseRefused, match=path.split("/")[1]):
                lie(root, lambda value, folder, path=path, data=data: (folder / path).write_bytes(data), seed=len(data))


def test_a_pickle_is_never_opened(root: pathlib.Path) -> None:
    def pickled(value: dict[str, Any], folder: pathlib.Path) -> None:
        np.save(folder / layout.embeddings_file(0, 1), np.array([object()] * 50), allow_pickle=True)

    with pytest.raises(ReleaseRefused, match=r"Array can't be memory-mapped|allow_pickle"):
        lie(root, pickled)


def test_items_in_the_wrong_shard_are_refused(root: pathlib.Path) -> None:
    def swap(value: dict[str, Any], folder: pathlib.Path) -> None:
        first, second = value["index"]["shards"]
        for name in ("items", "embeddings"):
            (folder / first[name]).rename(folder / "aside")
            (folder / second[name]).rename(folder / first[name])
            (folder / "aside").rename(folder / second[name])
        (folder / first["index"]).rename(folder / "aside")
        (folder / second["index"]).rename(folder / first["index"])
        (folder / "aside").rename(folder / second["index"])
        first["count"], second["count"] = second["count"], first["count"]

    with pytest.raises(ReleaseRefused, match="which belongs to another shard"):
        lie(root, swap, shards=2)


def test_too_little_recall_is_refused(root: pathlib.Path) -> None:
    narrow = IndexParameters("tree", leaves=50, leaves_to_search=1)
    release_id = build_release(root, n=2000, parameters=narrow, golden_recall=0.0)
    with pytest.raises(ReleaseRefused, match=r"recall on the golden queries is 0\.\d+, the manifest asks for 0\.99"):
        lie(root, edit("golden_recall", 0.99), n=2000, parameters=narrow, golden_recall=0.0, seed=1)
    open_release(open_store(root), release_id).close()


def test_among_equals_any_golden_neighbour_will_do(root: pathlib.Path) -> None:
    twins = np.repeat(unit_vectors(5, 8), 10, axis=0)
    release = release_of(root, items=make_items(50)[::-1], embeddings=twins, golden_recall=1.0)
    assert release.manifest.golden_recall == 1.0


# The live encoder


def test_the_probe_tells_encoders_apart(root: pathlib.Path) -> None:
    release = release_of(root)
    probes = release.encoder_info.probes
    right = np.stack([probe.embedding for probe in probes])
    asked: list[bytes] = []

    def encode(images: list[bytes]) -> npt.NDArray[np.float32]:
        asked.extend(images)
        return right

    check_encoder(release, encode)
    assert asked == [png(0), png(1)]
    check_encoder(release, lambda images: right + np.float32(1e-4))
    for wrong, message in (
        (unit_vectors(2, 8, seed=5), "it is another encoder"),
        (right[::-1], "it is another encoder"),
        (right * 0, r"has a cosine of 0\.000000"),
        (right * np.nan, "has a cosine of nan"),
        (right[:1], r"answers the probe with shape \(1, 8\), expected \(2, 8\)"),
    ):
        with pytest.raises(ReleaseRefused, match=message):
            check_encoder(release, lambda images, wrong=wrong: wrong)


def test_an_encoder_away_is_a_passing_fault(root: pathlib.Path) -> None:
    def away(images: list[bytes]) -> npt.NDArray[np.float32]:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        check_encoder(release_of(root), away)


@pytest.mark.parametrize("probes", [[], [Probe(png(), np.ones(7, np.float32))], [Probe(png(), np.full(8, np.nan))]])
def test_an_encoder_without_a_good_probe_is_refused(root: pathlib.Path, probes: list[Probe]) -> None:
    with pytest.raises(ReleaseRefused, match="probe"):
        build_release(root, probes=probes)


# From an object store


@pytest.fixture
def remote(tmp_path: pathlib.Path) -> Iterator[Store]:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    yield store
    store.delete("")


def test_a_release_from_an_object_store(remote: Store, tmp_path: pathlib.Path) -> None:
    published = publish_release(remote.uri, tmp_path / "work", shards=2, parameters=TREE)
    with pytest.raises(ValueError, match="need a cache folder"):
        open_release(remote, published.release_id)
    release = open_release(remote, published.release_id, cache=tmp_path / "cache")
    assert len(release.search(unit_vectors(1, 8)[0], 10)) == 10
    files = {e.path for shard in published.manifest.index.shards for e in shard.files}
    assert {e.path for e in list_files(tmp_path / "cache" / published.release_id)} == files


def test_a_damaged_copy_is_fetched_again(remote: Store, tmp_path: pathlib.Path) -> None:
    release_id = publish_release(remote.uri, tmp_path / "work").release_id
    open_release(remote, release_id, cache=tmp_path / "cache").close()
    for file in [f for f in (tmp_path / "cache").rglob("*") if f.is_file()]:
        flip(file)
        open_release(remote, release_id, cache=tmp_path / "cache").close()


def test_a_damaged_original_is_refused(remote: Store, tmp_path: pathlib.Path) -> None:
    release_id = publish_release(remote.uri, tmp_path / "work").release_id
    for stat in [*remote.files(f"releases/{release_id}"), *remote.files("encoders")]:
        whole = remote.read(stat.path)
        if stat.path.endswith("release.json"):
            continue
        remote.write(stat.path, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ReleaseRefused, match="encoder encoder version" if "encoders" in stat.path else "sha256"):
            open_release(remote, release_id, cache=tmp_path / uuid.uuid4().hex)
        remote.write(stat.path, whole)
    remote.delete(f"releases/{release_id}/items")
    with pytest.raises(ReleaseRefused, match="is missing"):
        open_release(remote, release_id, cache=tmp_path / "cache")
