"""Publishes the pushed encoder and the index that was built with it, as one release."""

import json
import logging
import os
import socket
from typing import Any

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from components import index_evaluator
from components.artifact_files import fetched_folder
from components.artifacts import IndexEvaluation, IngestReport, PublishedRelease, VectorIndex
from components.index_builder import read_index
from components.ingest.report import REPORT
from serving.release import layout
from serving.release.manifest import GoldenQuery
from serving.release.publish import Published, publish
from serving.storage import open_store

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
    told = ("images", "data_fingerprint", "spans", "items", "splits", "skipped")
    return {"data": {name: value.get(name) for name in told}}


def publish_artifacts(
    *,
    encoder: str,
    index: str,
    evaluation: str,
    serving_root: str,
    model_name: str,
    lineage: dict[str, Any],
    holder: str,
) -> Published:
    """Publishes what lies at these URIs; see serving.release.publish for what it raises."""
    described = read_index(index)
    measured = open_store(evaluation)
    value = json.loads(measured.read(index_evaluator.EVALUATION))
    index_evaluator.check_recall(value)
    with fetched_folder(encoder) as encoder_folder, fetched_folder(index) as body:
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
            wait_seconds=_WAIT_SECONDS,
        )


@component
def Publisher(
    pushed_model: InputArtifact[standard_artifacts.PushedModel],
    index: InputArtifact[VectorIndex],
    index_evaluation: InputArtifact[IndexEvaluation],
    release: OutputArtifact[PublishedRelease],
    serving_root: Parameter[str],
    report: InputArtifact[IngestReport] = None,
    model_name: Parameter[str] = "encoder",
    lineage: Parameter[str] = "",
    run: Parameter[str] = "",
    code: Parameter[str] = "",
) -> None:
    """Makes the pushed encoder and `index` the current release of `serving_root`, and writes its release.json.

    lineage: a JSON object, kept in the release with what `report`, of ingest, says of the data. code: the fingerprint
    of our code.
    run: something that no earlier run had. TFX decides about its cache for a pipeline as a whole, so this is what makes
    this one step always run; where `CURRENT` holds the same content already, it does nothing.
    """
    published = publish_artifacts(
        encoder=encoder_uri(pushed_model),
        index=index.uri,
        evaluation=index_evaluation.uri,
        serving_root=serving_root,
        model_name=model_name,
        lineage={"code": code, "run": run, **(data_lineage(report.uri) if report else {}), **read_lineage(lineage)},
        holder=f"Publisher, process {os.getpid()} on {socket.gethostname()}",
    )
    _log.info(
        "%s: %s", published.release_id, "is current already, nothing published" if published.unchanged else "published"
    )
    open_store(release.uri).write(layout.MANIFEST, published.manifest.to_json())
    release.set_string_custom_property("release_id", published.release_id)
    release.set_int_custom_property("unchanged", int(published.unchanged))
