"""What is kept of runs that TFX really made."""

import pathlib
import shutil
import sqlite3

import pytest
from ml_metadata.metadata_store import MetadataStore
from tfx import v1 as tfx

from pipeline.run_retention import Retained, UnknownMetadata, delete_old_runs
from serving.cli import main
from tests.pipeline.noted import Note, Release


def connection(root: pathlib.Path) -> object:
    return tfx.orchestration.metadata.sqlite_metadata_connection_config(str(root / "metadata.sqlite"))


def run(root: pathlib.Path, text: str, release_id: str, *, unchanged: bool = False) -> None:
    root.mkdir(exist_ok=True)
    note = Note(text=text)
    release = Release(note=note.outputs["note"], release_id=release_id, unchanged=int(unchanged))
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="noted",
            pipeline_root=str(root / "artifacts"),
            metadata_connection_config=connection(root),
            components=[note, release],
            enable_cache=True,
        )
    )


def counts(root: pathlib.Path) -> tuple[int, int, int]:
    """Returns how many runs, executions and artifacts MLMD knows; every artifact must be there."""
    store = MetadataStore(connection(root))
    artifacts = store.get_artifacts()
    assert all(pathlib.Path(artifact.uri, "text").exists() for artifact in artifacts)
    return len(store.get_contexts_by_type("pipeline_run")), len(store.get_executions()), len(artifacts)


def folders(root: pathlib.Path) -> list[str]:
    return sorted(str(path.parent.relative_to(root / "artifacts")) for path in root.glob("artifacts/*/*/*/text"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Four runs: the second takes the first's note from the cache, the others are their own."""
    root = tmp_path_factory.mktemp("runs") / "root"
    run(root, "a", "one")
    run(root, "a", "two")
    run(root, "b", "three")
    run(root, "c", "four")
    return root


@pytest.fixture
def root(template: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(template, tmp_path / "root")
    # TFX writes absolute paths.
    with sqlite3.connect(tmp_path / "root" / "metadata.sqlite") as metadata:
        metadata.execute("UPDATE Artifact SET uri = replace(uri, ?, ?)", (str(template), str(tmp_path / "root")))
    metadata.close()
    return tmp_path / "root"


pytestmark = pytest.mark.slow


def test_the_newest_runs_stay_with_what_they_took_from_the_cache(root: pathlib.Path) -> None:
    assert counts(root) == (4, 8, 7)
    kept = delete_old_runs(root, runs=3, bar=1e11, kept_releases=())
    # The first run's note is the second's too.
    assert len(kept.runs) == 1
    assert counts(root) == (3, 6, 6)
    assert "Note/note/1" in folders(root)
    assert "Release/release/2" not in folders(root)
    delete_old_runs(root, runs=1, bar=1e11, kept_releases=())
    assert counts(root) == (1, 2, 2)
    assert folders(root) == ["Note/note/7", "Release/release/8"]
    assert delete_old_runs(root, runs=1, bar=1e11, kept_releases=()) == Retained((), (), 0)


def test_tfx_goes_on_with_what_is_left(root: pathlib.Path) -> None:
    delete_old_runs(root, runs=1, bar=1e11, kept_releases=())
    run(root, "c", "five")
    assert counts(root) == (2, 4, 3)
    assert folders(root) == ["Note/note/7", "Release/release/10", "Release/release/8"]  # the note from the cache
    run(root, "a", "six")
    assert "Note/note/11" in folders(root)  # its cache was deleted
    counts(root)


def test_runs_of_kept_releases_and_young_runs_stay(root: pathlib.Path) -> None:
    assert len(delete_old_runs(root, runs=1, bar=1e11, kept_releases={"one"}).runs) == 2
    assert counts(root) == (2, 4, 4)
    assert delete_old_runs(root, runs=1, bar=0, kept_releases=()).runs == ()


def test_a_run_that_published_nothing_new_does_not_stay_for_its_release(root: pathlib.Path) -> None:
    run(root, "c", "one", unchanged=True)
    run(root, "c", "five")
    delete_old_runs(root, runs=1, bar=1e11, kept_releases={"one"})
    assert counts(root)[0] == 2


def test_a_dry_run_says_the_same(root: pathlib.Path) -> None:
    before = counts(root), folders(root)
    said = delete_old_runs(root, runs=1, bar=1e11, kept_releases=(), dry_run=True)
    assert (counts(root), folders(root)) == before
    assert said == delete_old_runs(root, runs=1, bar=1e11, kept_releases=())
    assert said.size > 0


def test_what_was_killed_on_the_way_is_done_the_next_time(root: pathlib.Path) -> None:
    shutil.copytree(root / "artifacts", root / "before")
    delete_old_runs(root, runs=1, bar=1e11, kept_releases=())
    shutil.rmtree(root / "artifacts")
    (root / "before").rename(root / "artifacts")  # as if it had died after the entries
    assert delete_old_runs(root, runs=1, bar=1e11, kept_releases=()).folders
    assert folders(root) == ["Note/note/7", "Release/release/8"]


def test_old_staging_goes_but_for_the_newest(root: pathlib.Path) -> None:
    for name in ("100", "200"):
        (root / "staging" / name).mkdir(parents=True)
    assert "staging/100" in delete_old_runs(root, runs=9, bar=1e11, kept_releases=()).folders
    assert [path.name for path in (root / "staging").iterdir()] == ["200"]


def test_unknown_metadata_is_not_touched(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with sqlite3.connect(root / "metadata.sqlite") as metadata:
        metadata.execute("UPDATE MLMDEnv SET schema_version = 11")
    metadata.close()
    with pytest.raises(UnknownMetadata, match="has MLMD's schema 11, known is 10"):
        delete_old_runs(root, runs=1, bar=1e11, kept_releases=())
    assert delete_old_runs(tmp_path / "nothing", runs=1, bar=1e11, kept_releases=()) == Retained((), (), 0)


def test_the_command(root: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["retain", "--root", str(root), "--serving-root", str(root / "serving")]
    policy = ["--set", "retention.runs=1", "--set", "retention.run_days=0"]
    assert main([*flags, *policy, "--dry-run"]) == 0
    assert "would delete 3 runs" in capsys.readouterr().out
    assert main([*flags, *policy]) == 0
    assert "deleted 3 runs" in capsys.readouterr().out
    assert counts(root)[0] == 1
    assert main([*flags, "--set", "retention.runs=0"]) == 2
    assert "retention.runs must be in [1, 10000], got 0" in capsys.readouterr().err


def test_the_command_refuses_what_is_not_there(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--root", str(tmp_path / "none"), "--serving-root", str(tmp_path / "none" / "serving")]
    assert main(["retain", *flags]) == 2
    assert "no releases in" in capsys.readouterr().err
