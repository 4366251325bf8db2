"""Runs the reindex pipeline on this machine, one at a time for a serving root."""

import gc
import json
import logging
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.lease_keeper import kept_alive
from pipeline.local_runner import ComponentWatch, watched, with_absolute_paths
from pipeline.reindex_summary import ReindexSummary
from serving.release import layout
from serving.release.current import read_current
from serving.release.lease import LeaseHeld, LeaseLost, hold_lease
from serving.storage import open_store

logger = logging.getLogger(__name__)

# For a publisher that is at work; a purge can wait for the next reindex, too.
_PURGE_WAIT_SECONDS = 60.0


def run_reindex(config: PipelineConfig, *, wait_seconds: float = 0.0) -> ReindexSummary:
    """Brings the current release up to date with its images; returns how it ended, and raises nothing but bugs.

    wait_seconds: how long to wait for another reindex of the same serving root.
    """
    config = with_absolute_paths(config)
    holder = f"reindex, process {os.getpid()} on {socket.gethostname()}"
    seconds = config.reindex.lease_seconds
    began = time.monotonic()

    def ended(status: str, error: str) -> ReindexSummary:
        return ReindexSummary(status, error=error, seconds=time.monotonic() - began)

    summary: ReindexSummary | None = None
    try:
        store = open_store(config.serving_root)
        # Before the lease, which would make a serving root of a folder that was mistyped.
        if read_current(store) is None:
            return ended("no-release", f"{store.uri} holds no release: `lookalike run` publishes the first.")
        with (
            hold_lease(
                store,
                holder,
                seconds=seconds,
                wait_seconds=wait_seconds,
                folder=layout.REINDEX,
            ) as lease,
            kept_alive(lease, seconds),
        ):
            summary = _run(config, lease.number, began)
            if summary.exit_code == 0:
                purge_what_is_due(config.serving_root)
            return summary
    except LeaseHeld as error:
        return ended("lease-held", str(error))
    except (OSError, ValueError) as error:
        # A disk that is full, a place that can't be written: whoever watches the summary must hear of that, too.
        logger.debug("the reindex failed", exc_info=True)
        if summary is not None:
            logger.warning("the lease was not given back: %s", error)
            return summary
        return ended("failed", f"{type(error).__name__}: {error}")


def _run(config: PipelineConfig, lease: int, began: float) -> ReindexSummary:
    # Here and not above: importing TFX takes ten seconds, and a lease that is held should be told at once.
    from tfx import v1 as tfx

    from pipeline.reindex import create_reindex_pipeline

    folder = _run_folder(config, lease)
    metadata = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(folder / "metadata.sqlite"))
    pipeline = create_reindex_pipeline(config, metadata=metadata, reindex_lease=lease, root=str(folder / "artifacts"))
    # What was imported stays. Else Python's collector looks through its 600,000 objects again and again while the
    # collection is compared, for a third of that time.
    gc.freeze()
    with watched() as watch:
        try:
            tfx.orchestration.LocalDagRunner().run(pipeline)
            error = None
        except Exception as raised:
            # The trace is for those who ask; the message must be enough for the rest.
            logger.debug("the reindex failed", exc_info=True)
            error = raised
    return _summary(folder / "artifacts", watch, error, time.monotonic() - began)


def purge_what_is_due(serving_root: str) -> None:
    """Erases the items that the current release is without, where their deletes asked for it; only logs what fails.

    What is left over `lookalike releases purges` lists, and the next reindex or `lookalike releases purge` erases.
    """
    from serving.release.purge import purge
    from serving.release.verify import ReleaseRefused

    try:
        purge(
            open_store(serving_root),
            holder=f"reindex, process {os.getpid()} on {socket.gethostname()}",
            wait_seconds=_PURGE_WAIT_SECONDS,
        )
    except (LeaseHeld, LeaseLost, ReleaseRefused, OSError, ValueError) as error:
        logger.warning("nothing was purged: %s", error)


def status_of(error: Exception) -> str:
    """Returns the status of a reindex that ended with this error."""
    from components.embedder import EmbeddingFailed
    from components.index_evaluator import RecallTooLow
    from components.ingest.listing import ListingError
    from components.ingest.report import IngestError
    from components.release_encoder import NoRelease
    from serving.release.publish import StaleBase
    from serving.release.updates import UpdatesLost

    if isinstance(error, (IngestError, ListingError, EmbeddingFailed, RecallTooLow)):
        return "refused"
    if isinstance(error, (StaleBase, LeaseLost, UpdatesLost)):
        return "stale"
    if isinstance(error, NoRelease):
        return "no-release"
    return "lease-held" if isinstance(error, LeaseHeld) else "failed"


def _run_folder(config: PipelineConfig, lease: int) -> pathlib.Path:
    """Makes the folder of a run, and deletes those of earlier ones: nothing in them is needed again.

    Each run has its own, so that one that was taken for dead and goes on is in nobody's way.
    """
    folders = pathlib.Path(config.root) / "reindex"
    folders.mkdir(parents=True, exist_ok=True)
    before = sorted(folder for folder in folders.iterdir() if folder.is_dir())
    for folder in before[: len(before) + 1 - config.reindex.keep_runs]:
        shutil.rmtree(folder, ignore_errors=True)
    folder = folders / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{lease}"
    folder.mkdir()
    return folder


def _summary(artifacts: pathlib.Path, watch: ComponentWatch, error: Exception | None, seconds: float) -> ReindexSummary:
    """Returns what the artifacts of a run say of it."""
    ingested = _read(artifacts / "ImageExampleGen/report", "report.json")
    embedded = _read(artifacts / "Embedder/embeddings", "report.json")
    base = _read(artifacts / "ReleaseEncoder/base", layout.MANIFEST)
    published = _read(artifacts / "Publisher/release", layout.MANIFEST)
    counts: dict[str, int] = {}
    if ingested:
        compared = ingested["reindex"]
        counts = {name: value for name, value in compared.items() if type(value) is int}
        del counts["base_items"]
        counts.update(
            {name: ingested[name] for name in ("upserts", "tombstones")}, skipped=ingested["skipped"]["total"]
        )
        counts.update(encoded=0, cached=0, items=ingested["items"])
    if embedded:
        counts.update(encoded=embedded["encoded"], cached=embedded["cached"], items=sum(embedded["counts"]))
    # Releases of before were built without.
    duplicates = published["evaluation"].get("duplicates") if published else None
    if duplicates:
        counts.update(duplicate_groups=duplicates["groups"], grouped=duplicates["items"])
    status = "failed"
    if error is not None:
        status = status_of(error)
    elif published and base:
        status = "unchanged" if published["release_id"] == base["release_id"] else "published"
    return ReindexSummary(
        status=status,
        release_id=published["release_id"] if published else None,
        base=base["release_id"] if base else None,
        encoder_version=published["encoder"]["version"] if published else None,
        counts=counts,
        components=dict(watch.seconds),
        seconds=seconds,
        error="" if error is None else f"{type(error).__name__}: {error}",
    )


def _read(folder: pathlib.Path, name: str) -> dict[str, Any] | None:
    """Returns the JSON object in an artifact, the only one in its folder; None where the step didn't come to it."""
    files: Iterator[pathlib.Path] = folder.glob(f"*/{name}")
    for file in files:
        value: dict[str, Any] = json.loads(file.read_bytes())
        return value
    return None
