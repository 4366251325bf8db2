"""Deletes old runs from the pipeline's root: their entries in MLMD, and the artifacts that no other run needs."""

import dataclasses
import logging
import pathlib
import shutil
import sqlite3
from collections.abc import Collection, Iterator

logger = logging.getLogger(__name__)

# MLMD 1.16 has no call that deletes, so this writes to its tables (metadata_store's `GetDefaultMySQLStoreConfig`).
_SCHEMA_VERSION = 10
_BUSY_SECONDS = 60.0

_CHOOSE = """
CREATE TEMP TABLE runs AS
  SELECT c.id, c.name, c.create_time_since_epoch AS created FROM Context c JOIN Type t ON c.type_id = t.id
  WHERE t.name = 'pipeline_run';
CREATE TEMP TABLE kept AS
  SELECT id FROM (SELECT id FROM runs ORDER BY created DESC, id DESC LIMIT {runs})
  UNION SELECT id FROM runs WHERE created >= {bar}
  UNION SELECT a.context_id FROM Attribution a
    JOIN ArtifactProperty p ON p.artifact_id = a.artifact_id AND p.name = 'release_id'
    JOIN ArtifactProperty u ON u.artifact_id = a.artifact_id AND u.name = 'unchanged' AND u.int_value = 0
    WHERE p.string_value IN (SELECT id FROM kept_releases) AND a.context_id IN (SELECT id FROM runs);
CREATE TEMP TABLE old_runs AS SELECT id, name FROM runs WHERE id NOT IN (SELECT id FROM kept);
CREATE TEMP TABLE old_executions AS
  SELECT execution_id AS id FROM Association WHERE context_id IN (SELECT id FROM old_runs)
  EXCEPT SELECT execution_id FROM Association WHERE context_id IN (SELECT id FROM kept);
CREATE TEMP TABLE old_artifacts AS
  SELECT artifact_id AS id FROM Event WHERE execution_id IN (SELECT id FROM old_executions)
  EXCEPT SELECT artifact_id FROM Event WHERE execution_id NOT IN (SELECT id FROM old_executions);
"""
_DELETE = """
DELETE FROM EventPath WHERE event_id IN
  (SELECT id FROM Event WHERE execution_id IN (SELECT id FROM old_executions));
DELETE FROM Event WHERE execution_id IN (SELECT id FROM old_executions);
DELETE FROM Association
  WHERE execution_id IN (SELECT id FROM old_executions) OR context_id IN (SELECT id FROM old_runs);
DELETE FROM Attribution
  WHERE artifact_id IN (SELECT id FROM old_artifacts) OR context_id IN (SELECT id FROM old_runs);
DELETE FROM ExecutionProperty WHERE execution_id IN (SELECT id FROM old_executions);
DELETE FROM Execution WHERE id IN (SELECT id FROM old_executions);
DELETE FROM ArtifactProperty WHERE artifact_id IN (SELECT id FROM old_artifacts);
DELETE FROM Artifact WHERE id IN (SELECT id FROM old_artifacts);
INSERT INTO old_runs
  SELECT c.id, c.name FROM Context c JOIN Type t ON c.type_id = t.id
  WHERE t.name = 'execution_cache' AND c.id NOT IN (SELECT context_id FROM Association);
DELETE FROM ContextProperty WHERE context_id IN (SELECT id FROM old_runs);
DELETE FROM ParentContext WHERE context_id IN (SELECT id FROM old_runs)
  OR parent_context_id IN (SELECT id FROM old_runs);
DELETE FROM Context WHERE id IN (SELECT id FROM old_runs);
"""


class UnknownMetadata(RuntimeError):
    """A metadata store whose tables are not those that are known here: nothing in it is touched."""


@dataclasses.dataclass(frozen=True)
class Retained:
    """runs: the names of those that were deleted. folders: of their artifacts. size: bytes in these."""

    runs: tuple[str, ...]
    folders: tuple[str, ...]
    size: int


def delete_old_runs(
    root: pathlib.Path, *, runs: int, bar: float, kept_releases: Collection[str], dry_run: bool = False
) -> Retained:
    """Deletes what only old runs have left below a pipeline's root; not while a run is under way there.

    A run stays with its artifacts, and those of earlier runs that it took from the cache. Entries go first, in one
    transaction, then folders that no entry names: killed on the way, it deletes the rest the next time.

    Args:
      root: the pipeline's.
      runs: how many of the newest ones stay.
      bar: seconds since the epoch; runs that began later stay.
      kept_releases: ids; the runs that published them stay.
      dry_run: whether only to say what would be deleted.

    Raises UnknownMetadata where MLMD's tables are of another version.
    """
    file = root / "metadata.sqlite"
    if not file.exists():
        return Retained((), (), 0)
    connection = sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        [(version,)] = connection.execute("SELECT schema_version FROM MLMDEnv").fetchall()
        if version != _SCHEMA_VERSION:
            raise UnknownMetadata(f"{file} has MLMD's schema {version}, known is {_SCHEMA_VERSION}.")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TEMP TABLE kept_releases (id TEXT)")
        connection.executemany("INSERT INTO kept_releases VALUES (?)", [(name,) for name in kept_releases])
        _execute(connection, _CHOOSE.format(runs=int(runs), bar=int(bar * 1000)))
        names = [row[0] for row in connection.execute("SELECT name FROM old_runs ORDER BY name")]
        _execute(connection, _DELETE)
        folders = list(_unnamed(connection, root))
        connection.execute("ROLLBACK" if dry_run else "COMMIT")
    finally:
        connection.close()
    folders += _old_staging(root / "staging", bar)
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    for folder in folders if not dry_run else ():
        shutil.rmtree(folder)
    return Retained(tuple(names), tuple(str(folder.relative_to(root)) for folder in folders), size)


def _execute(connection: sqlite3.Connection, script: str) -> None:
    # Not executescript: it would commit first.
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement)


def _unnamed(connection: sqlite3.Connection, root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the folders `<component>/<output>/<execution>` that belong to no execution and no artifact any more."""
    # By what comes after the root, which may have been moved. A value's own name is beyond the third part.
    uris = {
        "/".join(uri.rpartition("/artifacts/")[2].split("/")[:3])
        for (uri,) in connection.execute("SELECT uri FROM Artifact WHERE uri IS NOT NULL")
    }
    executions = {row[0] for row in connection.execute("SELECT id FROM Execution")}
    [(newest,)] = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'Execution'").fetchall() or [(0,)]
    artifacts = root / "artifacts"
    for folder in sorted([*artifacts.glob("*/*/*"), *artifacts.glob("*/.system/*/*")]):
        if not folder.is_dir() or not folder.name.isdecimal():
            continue
        # What is beyond the newest is of nobody we know.
        known = int(folder.name) > newest or int(folder.name) in executions
        if not known and "/".join(folder.parts[-3:]) not in uris:
            yield folder


def _old_staging(staging: pathlib.Path, bar: float) -> list[pathlib.Path]:
    pushed = sorted(folder for folder in staging.glob("*") if folder.is_dir())
    return [folder for folder in pushed[:-1] if folder.stat().st_mtime < bar]
