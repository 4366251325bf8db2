"""A reindex ends with a purge, and is none the worse where that fails."""

import pathlib

import pytest

from pipeline import reindex_runner
from serving.release.lease import hold_lease
from serving.release.purge import list_purges
from tests.serving.journal.changes import delete, upsert
from tests.serving.updated_root import UpdatedRoot


def test_what_is_due_is_purged(tmp_path: pathlib.Path) -> None:
    root = UpdatedRoot(str(tmp_path / "root"), tmp_path / "work")
    root.append(upsert("a.png", 2))
    root.reindex()
    reindex_runner.purge_what_is_due(root.store.uri)
    root.append(delete("a.png", purge=True))
    root.reindex()
    reindex_runner.purge_what_is_due(root.store.uri)
    assert [list(record.items) for record in list_purges(root.store).done] == [["a.png"]]


def test_a_purge_that_fails_is_only_logged(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reindex_runner, "_PURGE_WAIT_SECONDS", 0.0)
    root = UpdatedRoot(str(tmp_path / "root"), tmp_path / "work")
    root.reindex()
    with hold_lease(root.store, "another"):
        reindex_runner.purge_what_is_due(root.store.uri)
    assert "nothing was purged: another holds lease" in caplog.text
