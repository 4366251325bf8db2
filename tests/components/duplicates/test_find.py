"""Groups through IndexBuilder, over real pictures in several parts and shards."""

import dataclasses
import hashlib
import json
import pathlib

import apache_beam as beam
import numpy as np
import pytest
from PIL import Image

from components.artifacts import Embeddings, VectorIndex
from components.duplicates import steps
from components.embedding import parts as embedding_parts
from components.embedding.parts import EmbeddingsReport
from components.index_builder import IndexBuilder, read_index
from pipeline.beam_options import DIRECT_RUNNER
from serving.release import layout
from serving.release.items import Item, ItemShard, write_items
from tests.components.duplicates.test_perceptual_hash import photo, saved

PARTS = 4


@dataclasses.dataclass(frozen=True)
class Picture:
    """image: its file. vector: `[8]`, of any length. stored: the hash that an earlier release knows."""

    image: bytes
    vector: np.ndarray
    thumbnail: bytes | None = None
    stored: int | None = None


def vector(seed: int, noise: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=8) + noise * random.normal(size=8)


def build(folder: pathlib.Path, pictures: dict[str, Picture], *, shards: int = 2, **duplicates) -> VectorIndex:
    """Runs IndexBuilder over pictures by item id."""
    embeddings = Embeddings()
    embeddings.uri = str(folder / "embeddings")
    (folder / "embeddings").mkdir(parents=True)
    names: list[list[str]] = [[] for _ in range(PARTS)]
    for name in pictures:
        names[layout.shard_of(name, PARTS)].append(name)
    for part, some in enumerate(names):
        rows = np.array([pictures[name].vector for name in some], np.float32).reshape(-1, 8)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.save(folder / "embeddings" / embedding_parts.vectors_file(part, PARTS), rows)
        items = []
        for name in some:
            picture = pictures[name]
            sha256 = hashlib.sha256(picture.image).hexdigest()
            small = picture.image if picture.thumbnail is None else picture.thumbnail
            items.append(Item(name, "", sha256, 80, 80, {}, small, perceptual_hash=picture.stored))
        write_items(folder / "embeddings" / embedding_parts.items_file(part, PARTS), items)
    count = len(pictures)
    report = EmbeddingsReport(tuple(map(len, names)), 0, 8, count, count, count, 0, ())
    (folder / "embeddings" / embedding_parts.REPORT).write_bytes(report.to_json())
    (folder / "embeddings" / embedding_parts.ENCODER).write_text(json.dumps({"digest": "d" * 64, "info": {}}))
    index = VectorIndex()
    index.uri = str(folder / "index")
    IndexBuilder.test_call(
        embeddings=embeddings,
        index=index,
        shards=shards,
        duplicates=json.dumps(duplicates),
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
    )
    return index


def built(index: VectorIndex, shards: int = 2) -> dict[str, Item]:
    """Returns the items of a built index by id."""
    files = [pathlib.Path(index.uri) / layout.items_file(shard, shards) for shard in range(shards)]
    return {item.item_id: item for file in files for item in ItemShard(file)}


def groups(items: dict[str, Item]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, item in sorted(items.items()):
        if item.duplicate_group:
            found.setdefault(item.duplicate_group, []).append(name)
    return found


@pytest.fixture(scope="module")
def pictures() -> dict[str, Picture]:
    """Twelve photographs; of the first five a copy as JPEG and one by another name, of the sixth only the latter."""
    made: dict[str, Picture] = {}
    for n in range(12):
        made[f"{n:02d}.png"] = Picture(saved(photo(n)), vector(n))
        if n < 5:
            made[f"{n:02d}-copy.jpg"] = Picture(saved(photo(n), "JPEG", quality=70), vector(n, 0.02))
        if n < 6:
            made[f"{n:02d}-again.png"] = made[f"{n:02d}.png"]
    return made


@pytest.fixture(scope="module")
def grouped(pictures: dict[str, Picture], tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    return build(tmp_path_factory.mktemp("grouped"), pictures)


def test_copies_are_grouped_across_parts_and_shards(grouped):
    items = built(grouped)
    expected = {f"{n:02d}-again.png": [f"{n:02d}-again.png", f"{n:02d}-copy.jpg", f"{n:02d}.png"] for n in range(5)} | {
        "05-again.png": ["05-again.png", "05.png"]
    }
    assert groups(items) == expected
    assert all(item.perceptual_hash is not None for item in items.values())
    shards = {name: layout.shard_of(name, 2) for name in items}
    assert any(len({shards[name] for name in names}) == 2 for names in expected.values()), "of both shards"


def test_the_report_says_how_many_and_shows_the_largest(grouped):
    told = {"hamming": 10, "cosine": 0.9, "groups": 6, "items": 17, "identical": 1}
    assert read_index(grouped.uri)["duplicates"] == told
    report = json.loads((pathlib.Path(grouped.uri) / steps.REPORT).read_text())
    assert [(group["group"], group["items"], group["contents"]) for group in report["largest"]][-2:] == [
        ("04-again.png", 3, 2),
        ("05-again.png", 2, 1),
    ]
    with Image.open(pathlib.Path(grouped.uri) / steps.PICTURE) as picture:
        assert picture.size == (4 + 3 * 100, 4 + 6 * 114)


@pytest.mark.parametrize("shards", [1, 4])
def test_groups_are_the_same_however_the_index_is_cut(tmp_path, pictures, grouped, shards):
    index = build(tmp_path, pictures, shards=shards)
    assert built(index, shards) == built(grouped)


def test_looks_and_embedding_must_both_agree(tmp_path):
    made = {
        "a.png": Picture(saved(photo(0)), vector(0)),
        "looks alike.png": Picture(saved(photo(0), "JPEG", quality=70), vector(1)),
        "embedded alike.png": Picture(saved(photo(2)), vector(0)),
        "red.png": Picture(saved(Image.new("RGB", (40, 40), "red")), vector(3)),
        "blue.png": Picture(saved(Image.new("RGB", (40, 40), "blue")), vector(3)),
        "red again.png": Picture(saved(Image.new("RGB", (40, 40), "red")), vector(3)),
    }
    items = built(build(tmp_path / "both", made))
    assert groups(items) == {"red again.png": ["red again.png", "red.png"]}, "of one colour: only what is identical"
    assert items["red.png"].perceptual_hash is None
    alike = groups(built(build(tmp_path / "looks", made, cosine=-1.0)))
    assert alike["a.png"] == ["a.png", "looks alike.png"]


def test_what_is_known_is_not_looked_at_again(tmp_path, pictures, grouped):
    """As in a reindex: the hashes of the release, and no image to make them of."""
    known = built(grouped)
    kept = {
        name: dataclasses.replace(picture, thumbnail=b"", stored=known[name].perceptual_hash)
        for name, picture in pictures.items()
    }
    again = built(build(tmp_path, kept))
    assert {name: dataclasses.replace(item, thumbnail=known[name].thumbnail) for name, item in again.items()} == known


def test_nobody_looks_where_it_is_off(tmp_path, pictures):
    index = build(tmp_path, pictures, enabled=False)
    assert {(item.perceptual_hash, item.duplicate_group) for item in built(index).values()} == {(None, "")}
    assert read_index(index.uri)["duplicates"] is None
    assert not (pathlib.Path(index.uri) / steps.REPORT).exists()


def test_no_pair_at_all(tmp_path):
    index = build(tmp_path, {"a.png": Picture(saved(photo(0)), vector(0))})
    assert groups(built(index)) == {}
    assert read_index(index.uri)["duplicates"]["groups"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hamming": 64}, r"duplicates.hamming must be a whole number in \[0, 64\), got 64"),
        ({"cosine": 1.5}, r"duplicates.cosine must be in \[-1, 1\], got 1.5"),
        ({"enabled": 1}, "duplicates.enabled must be true or false, got 1"),
        ({"distance": 3}, "unknown options of duplicates: distance"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, {"a.png": Picture(saved(photo(0)), vector(0))}, **options)
