"""Publishes an encoder and the index that was built with it, as one release."""

import contextlib
import json
import logging
import os
import socket
from typing import Any

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components import index_evaluator
from components.artifact_files import fetched_folder
from components.artifacts import BaseRelease, IndexEvaluation, IngestReport, PublishedRelease, Updates, VectorIndex
from components.index_builder import read_index
from components.ingest.report import REPORT
from components.ingest.updates import local_state
from components.reindex.base import read_base
from components.reindex.unchanged import unchanged_since
from serving.release import layout
from serving.release.current import read_current
from serving.release.lease import LeaseLost, newest_lease
from serving.release.manifest import GoldenQuery, Manifest
from serving.release.publish import Published, StaleBase, publish
from serving.release.reader import read_manifest
from serving.storage import Store, open_store

_log = logging.getLogger(__name__)

# Longer than a lease lasts: the holder may have been killed on another machine, where nobody can see that it is gone.
_WAIT_SECONDS = 330.0


class NothingPushed(RuntimeError):
    """Pusher pushed no encoder, so there is nothing to publish."""


def encoder_uri(pushed_model: standard_artifacts.PushedModel) -> str:
    """Returns where the complete encoder lies that Pusher pushed; raises NothingPushed where it pushed none.

    Pusher keeps a copy in its artifact: the staging folder may be cleaned at any time.
    """
    if pushed_model.get_int_custom_property("pushed") != 1:
        raise NothingPushed("Pusher pushed no encoder: it was not blessed, or its InfraBlessing holds none.")
    staged = pushed_model.get_string_custom_property("pushed_destination")
    for uri in (pushed_model.uri, staged):
        if uri and open_store(uri).exists(layout.SAVED_MODEL):
            return uri
    raise NothingPushed(f"neither {pushed_model.uri} nor {staged} holds {layout.SAVED_MODEL}.")


def fence(store: Store, number: int) -> None:
    """Raises LeaseLost where another reindex has taken over since lease `number` was taken; 0 asks nothing."""
    newest = newest_lease(store, layout.REINDEX)
    if number and newest != number:
        raise LeaseLost(f"the reindex that held lease {number} was taken for dead: lease {newest} has taken over.")


def read_golden(data: bytes) -> list[GoldenQuery]:
    """Returns the golden queries in `golden.json`."""
    return [GoldenQuery(query["item_id"], tuple(query["neighbors"])) for query in json.loads(data)]


def read_lineage(text: str) -> dict[str, Any]:
    """Returns the lineage in a JSON object, or in nothing at all."""
    value = json.loads(text or "{}")
    if not isinstance(value, dict):
        raise ValueError(f"lineage must be a JSON object, got {text!r}.")
    return value


def data_lineage(report: str) -> dict[str, Any]:
    """Returns what a release says of its data, from the report of ingest at this URI."""
    value = json.loads(open_store(report).read(REPORT))
    told = ("images", "data_fingerprint", "spans", "items", "splits", "skipped", "reindex")
    return {"data": {**{name: value.get(name) for name in told}, "limits": value["options"]["limits"]}}


def publish_artifacts(
    *,
    encoder: str,
    index: str,
    evaluation: str,
    serving_root: str,
    model_name: str,
    lineage: dict[str, Any],
    holder: str,
    updates: str = "",
    base: str | None = None,
) -> Published:
    """Publishes what lies at these URIs; see serving.release.publish for what it raises.

    updates: the Updates artifact that the index was built with, empty for none. base: the release that a reindex was
    built on.
    """
    described = read_index(index)
    measured = open_store(evaluation)
    value = json.loads(measured.read(index_evaluator.EVALUATION))
    index_evaluator.check_recall(value)
    with contextlib.ExitStack() as stack:
        encoder_folder, body = (stack.enter_context(fetched_folder(uri)) for uri in (encoder, index))
        state, watermark = stack.enter_context(local_state(updates)) if updates else (None, {})
        return publish(
            open_store(serving_root),
            encoder=encoder_folder,
            body=body,
            model=model_name,
            encoder_digest=described["encoder_digest"],
            golden=read_golden(measured.read(index_evaluator.GOLDEN)),
            golden_recall=value["golden_recall"],
            evaluation=value,
            lineage=lineage,
            holder=holder,
            updates=state,
            watermark=watermark,
            base=base,
            wait_seconds=_WAIT_SECONDS,
        )


def confirm_unchanged(store: Store, release_id: str) -> Published:
    """Returns the current release, as published before; raises StaleBase where it isn't `release_id` any more."""
    current = read_current(store)
    if current != release_id:
        raise StaleBase(f"the reindex was built on {release_id}, {layout.CURRENT} is {current} now.")
    return Published(release_id, True, read_manifest(store, release_id))


@component
def Publisher(
    index: InputArtifact[VectorIndex],
    index_evaluation: InputArtifact[IndexEvaluation],
    release: OutputArtifact[PublishedRelease],
    serving_root: Parameter[str],
    pushed_model: InputArtifact[standard_artifacts.PushedModel] = None,
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing] = None,
    base: InputArtifact[BaseRelease] = None,
    report: InputArtifact[IngestReport] = None,
    updates: InputArtifact[Updates] = None,
    model_name: Parameter[str] = "encoder",
    lineage: Parameter[str] = "",
    reindex_lease: Parameter[int] = 0,
    run: Parameter[str] = "",
    code: Parameter[str] = "",
) -> None:
    """Makes the encoder and `index` the current release of `serving_root`, and writes its release.json.

    The encoder is the one that Pusher pushed (`pushed_model`) or, in a reindex, the one of ReleaseEncoder
    (`infra_blessing`). updates: the upserts and deletes that the index was built with. base: of a reindex: where
    `CURRENT` is another by now, nothing is published. reindex_lease: the number of the lease that the reindex holds; 0
    where it holds none.
    lineage: a JSON object, kept in the release with what `report`, of ingest, says of the data. code: the fingerprint
    of our code.
    run: something that no earlier run had. TFX decides about its cache for a pipeline as a whole, so this is what makes
    this one step always run; where `CURRENT` holds the same content already, it does nothing.
    """
    store = open_store(serving_root)
    fence(store, reindex_lease)
    unchanged = unchanged_since(index_evaluation.uri)
    if unchanged is not None:
        published = confirm_unchanged(store, unchanged)
    else:
        given = read_base(base.uri) if base else None
        found = open_store(base.uri).read(layout.MANIFEST) if base else None
        published = publish_artifacts(
            encoder=encoder_uri(pushed_model) if pushed_model else path_utils.stamped_model_path(infra_blessing.uri),
            index=index.uri,
            evaluation=index_evaluation.uri,
            serving_root=serving_root,
            # A reindex publishes under the name that its base has.
            model_name=Manifest.from_json(found).encoder.model if found else model_name,
            lineage={"code": code, "run": run, **(data_lineage(report.uri) if report else {}), **read_lineage(lineage)},
            holder=f"Publisher, process {os.getpid()} on {socket.gethostname()}",
            updates=updates.uri if updates else "",
            base=given.release_id if given else None,
        )
    _log.info(
        "%s: %s", published.release_id, "is current already, nothing published" if published.unchanged else "published"
    )
    open_store(release.uri).write(layout.MANIFEST, published.manifest.to_json())
    release.set_string_custom_property("release_id", published.release_id)
    release.set_int_custom_property("unchanged", int(published.unchanged))
