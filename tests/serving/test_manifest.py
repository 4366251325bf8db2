import dataclasses
import json
import pathlib
from typing import Any

import pytest

from serving.release import layout
from serving.release.encoder_info import EncoderInfo
from serving.release.manifest import FileEntry, Manifest, ManifestError, content_sha256
from tests.serving.release_builder import build_release, make_encoder

SHA = "0" * 64


@pytest.fixture(scope="module")
def value(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("manifest") / "root"
    release = build_release(root, shards=2)
    return json.loads((root / layout.release_folder(release) / layout.MANIFEST).read_bytes())


def changed(value: dict[str, Any], path: str, to: Any) -> bytes:
    copy = json.loads(json.dumps(value))
    *folders, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    place = copy
    for part in folders:
        place = place[part]
    place[last] = to
    copy["sha256"] = content_sha256({name: part for name, part in copy.items() if name != "sha256"})
    return json.dumps(copy).encode()


def test_a_manifest_comes_back_as_it_went(value: dict[str, Any]) -> None:
    manifest = Manifest.from_json(json.dumps(value).encode())
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert json.loads(manifest.to_json()) == value


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        ("format_version", 2, "format_version must be 1, got 2"),
        ("release_id", "../../etc", "release id must match"),
        ("release_id", 5, "expected string"),
        ("parent", "a/b", "release id must match"),
        ("created", "now", "created is not of the right type"),
        ("created", float("nan"), "created must be in"),
        ("golden_recall", 1.5, r"golden_recall must be in \[0, 1\.0\], got 1\.5"),
        ("golden_recall", True, "golden_recall is not of the right type"),
        ("encoder/version", 0, r"encoder\.version must be at least 1, got 0"),
        ("encoder/version", 2**63, "encoder version must be in"),
        ("encoder/model", "..", "model name must match"),
        ("encoder/dimension", 0, r"encoder\.dimension must be at least 1, got 0"),
        ("encoder/dimension", 8.0, r"encoder\.dimension is not of the right type"),
        ("encoder/digest", "abc", r"encoder\.digest must match"),
        ("encoder/normalised", 1, r"encoder\.normalised is not of the right type"),
        ("index/kind", "hnsw", r"index\.kind must be one of"),
        ("index/kind", "exact", r"index\.kind is 'exact', its parameters say 'brute_force'"),
        ("index/metric", "l2", r"index\.metric must be 'cosine'"),
        ("index/count", 51, r"index\.count is 51, but its shards hold 50 items"),
        ("index/count", 0, r"index\.count must be at least 1, got 0"),
        ("index/shards", [], r"index\.count is 50, but its shards hold 0 items"),
        ("index/shards/0/count", -1, r"shard\.count must be at least 0, got -1"),
        ("index/shards/0/items", "items/other.sqlite", "does not belong to its shard"),
        ("index/shards/0/files", [], "must name embeddings/shard-00000-of-00002.npy once, got 0 times"),
        ("index/shards/0/files/0/path", "../../../etc/passwd", "file path must match"),
        ("index/shards/0/files/0/path", "index/../../x", "file path must match"),
        ("index/shards/0/files/0/path", "/etc/passwd", "file path must match"),
        ("index/shards/0/files/0/path", "index//x", "file path must match"),
        ("index/shards/0/files/0/path", "index\\..\\x", "file path must match"),
        ("index/shards/0/files/0/path", "release.json", "does not belong to its shard"),
        ("index/shards/0/files/0/size", -1, "must be at least 0, got -1"),
        ("index/shards/0/files/0/size", "1", "not of the right type"),
        ("index/shards/0/files/0/sha256", SHA[:-1] + "G", "sha256 of .* must match"),
        ("golden/0/item_id", 5, "golden item id is not of the right type"),
        ("golden/0/neighbors", ["a", "a"], "names an item twice"),
        ("golden/0/neighbors", None, "not a release manifest"),
        ("lineage", [], "lineage is not of the right type"),
        ("surprise", 1, "not a release manifest.*surprise"),
    ],
)
def test_a_manifest_that_lies_is_refused(value: dict[str, Any], path: str, to: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(changed(value, path, to))


def test_any_change_shows(value: dict[str, Any]) -> None:
    for name in ("created", "golden_recall", "evaluation", "lineage", "parent"):
        with pytest.raises(ManifestError, match="its content has sha256"):
            Manifest.from_json(json.dumps({**value, name: "x"}).encode())


def test_shards_lie_where_the_layout_says(value: dict[str, Any]) -> None:
    shards = value["index"]["shards"]
    with pytest.raises(ManifestError, match="shard 0 of 2 must lie at"):
        Manifest.from_json(changed(value, "index/shards", shards[::-1]))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format_version": 1}'])
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError, match="not a release manifest"):
        Manifest.from_json(data)


def test_nothing_that_json_can_not_hold(value: dict[str, Any]) -> None:
    manifest = Manifest.from_json(json.dumps(value).encode())
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(manifest, evaluation={"mse": float("nan")}).to_json()


def test_keys_that_are_no_strings_are_written_as_such(value: dict[str, Any]) -> None:
    manifest = Manifest.from_json(json.dumps(value).encode())
    odd = dataclasses.replace(manifest, evaluation={"recall": {9: 1.0, 10: 0.5}})
    assert Manifest.from_json(odd.to_json()).evaluation == {"recall": {"9": 1.0, "10": 0.5}}


def test_odd_but_harmless_names() -> None:
    for path in ("variables/variables.data-00000-of-00001", "assets/a b", ".hidden", "..a/b..", "ü"):
        assert FileEntry(path, 0, SHA).path == path


def test_an_encoder_says_what_it_is(tmp_path: pathlib.Path) -> None:
    data = (make_encoder(tmp_path / "encoder") / layout.ENCODER_INFO).read_bytes()
    assert EncoderInfo.from_json(data).to_json() == data
    other = data.replace(b'"format_version": 1', b'"format_version": 9')
    for broken in (b"", b"[]", other, data.replace(b"dim", b"x")):
        with pytest.raises(ManifestError):
            EncoderInfo.from_json(broken)
