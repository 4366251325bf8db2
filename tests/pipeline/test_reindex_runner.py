"""The reindex pipeline as TFX runs it on this machine, and how it says that it ended."""

import dataclasses
import json
import pathlib

import pytest

from pipeline import config as configuration
from pipeline.config import IndexConfig, IngestConfig, PipelineConfig
from pipeline.reindex_config import ReindexConfig
from pipeline.reindex_runner import run_reindex
from serving.journal.entry import Tombstone
from serving.journal.writer import JournalWriter
from serving.release.current import read_current, write_current
from serving.storage import open_store
from tests.components.reindexing import Root


def config_of(root: Root, **reindex) -> PipelineConfig:
    return PipelineConfig(
        root=str(root.folder / "runs"),
        serving_root=str(root.serving_root),
        ingest=IngestConfig(images=root.source, shards=2),
        index=IndexConfig(kind="exact"),
        reindex=ReindexConfig(**reindex),
    )


@pytest.mark.slow
def test_a_reindex_says_how_it_ended(tmp_path: pathlib.Path) -> None:
    root = Root(tmp_path)
    for number in range(10):
        root.write(f"{number}.png", number)
    missing = run_reindex(config_of(root))
    assert (missing.status, missing.exit_code) == ("no-release", 6) and "publishes the first" in missing.error

    root.publish()
    before = read_current(root.store)
    root.spoil()
    unchanged = run_reindex(config_of(root))
    assert (unchanged.status, unchanged.exit_code, unchanged.release_id) == ("unchanged", 0, before)
    assert unchanged.counts["unchanged"] == unchanged.counts["items"] == 10 and root.encoder.calls() == []

    root.write("new.png", 100)
    (root.images / "0.png").unlink()
    JournalWriter(root.store).append([Tombstone("1.png")])
    published = run_reindex(config_of(root))
    assert (published.status, published.exit_code, published.base) == ("published", 0, before)
    assert published.release_id == read_current(root.store) != before
    told = {
        name: published.counts[name] for name in ("unchanged", "read", "new", "removed", "deleted", "encoded", "items")
    }
    assert told == {"unchanged": 8, "read": 1, "new": 1, "removed": 1, "deleted": 1, "encoded": 1, "items": 9}
    assert (published.counts["upserts"], published.counts["tombstones"]) == (0, 1)
    groups = root.manifest().evaluation["duplicates"]
    assert (published.counts["duplicate_groups"], published.counts["grouped"]) == (groups["groups"], groups["items"])
    assert sum(root.encoder.calls()) == 1
    lineage = root.manifest().lineage
    assert lineage["pipeline"] == "lookalike-reindex" and lineage["data"]["reindex"]["base"] == before

    for file in list(root.images.iterdir())[1:]:
        file.unlink()
    refused = run_reindex(config_of(root))
    assert (refused.status, refused.exit_code) == ("refused", 3) and "--allow-removal" in refused.error
    assert read_current(root.store) == published.release_id
    assert run_reindex(config_of(root, encoder_version=1)).status == "no-release"
    # Of two runs the artifacts stay.
    assert len(list((root.folder / "runs/reindex").iterdir())) == 2


def test_no_serving_root_is_made_where_there_is_none(tmp_path: pathlib.Path) -> None:
    ended = run_reindex(PipelineConfig(root=str(tmp_path / "runs"), serving_root=str(tmp_path / "mistyped")))
    assert (ended.status, ended.exit_code) == ("no-release", 6)
    assert f"{tmp_path / 'mistyped'} holds no release" in ended.error
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_used_is_told_as_well(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    ended = run_reindex(PipelineConfig(root=str(tmp_path / "runs"), serving_root=str(tmp_path / "file")))
    assert (ended.status, ended.exit_code) == ("failed", 1)
    assert "NotADirectoryError" in ended.error and str(tmp_path / "file") in ended.error

    store = open_store(tmp_path / "root")
    write_current(store, "20260101T000000Z-1")
    ended = run_reindex(PipelineConfig(root=str(tmp_path / "file"), serving_root=store.uri))
    assert (ended.status, ended.exit_code) == ("failed", 1)
    assert "NotADirectoryError" in ended.error and str(tmp_path / "file") in ended.error


def test_the_config_that_a_run_left_is_one_to_reindex_with(tmp_path: pathlib.Path) -> None:
    config = PipelineConfig(ingest=IngestConfig(images="photos", label_from="folder"))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    assert configuration.load(str(tmp_path / "config.json")) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_version": -1}, "encoder_version must be in"),
        ({"max_removed_share": 1.5}, r"max_removed_share must be in \[0, 1\], got 1.5"),
        ({"lease_seconds": 0.5}, "lease_seconds must be in"),
        ({"keep_runs": 0}, "keep_runs must be in"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        ReindexConfig(**options)
