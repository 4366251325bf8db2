"""Embeds a collection with Beam: every content once, and none that an earlier run has embedded already.

Only (sha256, part, row, record) and vectors are shuffled, in arrays; images never are, because a runner may keep every
shuffle in memory. Whoever needs images streams them from their file:

    read contents  per part: group what its items contain by the first digits of its sha256
    look up        per group: the first record of each content owns it; what the cache holds is done
    encode         per part: write the items, and stream the images it owns through the encoder, both at the same time
    write          per part: put the vectors where their items are
"""

import json
import logging
import pathlib
import time

import apache_beam as beam
from tfx.components.util import model_utils
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.artifact_files import fetched_folder
from components.artifacts import BaseRelease, Embeddings
from components.embedding import parts as embedding_parts
from components.embedding.encoding import EncodePart
from components.embedding.example_shards import ExampleShard, list_shards
from components.embedding.flow import EmbedOptions
from components.embedding.lookup import LookUp, ReadContents
from components.embedding.parts import EmbeddingsReport
from components.embedding.writing import AddToCache, WritePart, WriteReport
from components.reindex.base import read_base
from components.reindex.unchanged import passed_on
from serving.release.encoder_info import EncoderInfo, list_files, tree_digest
from serving.release.layout import ENCODER_INFO
from serving.storage import open_store

_log = logging.getLogger(__name__)


class EmbeddingFailed(RuntimeError):
    """More images were refused by the encoder than the collection may lose."""


class EmbedExamples(beam.PTransform):
    """ExampleShards (all of them, in a PCollection) to an Embeddings artifact; returns its EmbeddingsReport."""

    def __init__(self, options: EmbedOptions, shards: list[ExampleShard]) -> None:
        super().__init__()
        self._options = options
        self._shards = shards

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        options, parts = self._options, len(self._shards)
        looked_up = (
            shards
            | "ReadContents" >> beam.ParDo(ReadContents(options, parts))
            | "GroupByPrefix" >> beam.GroupByKey()
            | "LookUp" >> beam.ParDo(LookUp(options)).with_outputs("misses", "counts", main="vectors")
        )
        keyed = shards | "KeyByPart" >> beam.Map(lambda shard: (shard.shard, shard))
        encoded = (
            {"shards": keyed, "misses": looked_up.misses}
            | "GroupByOwner" >> beam.CoGroupByKey()
            | "Encode" >> beam.ParDo(EncodePart(options, parts)).with_outputs("items", "new", "counts", main="vectors")
        )
        _ = encoded.new | "GroupNew" >> beam.GroupByKey() | "AddToCache" >> beam.ParDo(AddToCache(options))
        vectors = (looked_up.vectors, encoded.vectors) | "FlattenVectors" >> beam.Flatten()
        reports = (
            {"items": encoded["items"], "vectors": vectors}
            | "JoinVectors" >> beam.CoGroupByKey()
            | "WritePart" >> beam.ParDo(WritePart(options, parts))
        )
        # A group, and neither a combination nor a side input: each of these is a stage or two more.
        return (
            (reports, looked_up.counts, encoded.counts)
            | "FlattenReports" >> beam.Flatten()
            | "Together" >> beam.WithKeys(0)
            | "GroupReports" >> beam.GroupByKey()
            | "WriteReport" >> beam.ParDo(WriteReport(options, parts))
        )


def check_failures(report: EmbeddingsReport, max_failed_share: float) -> None:
    """Raises EmbeddingFailed where more than this share of the items, in [0, 1], was refused by the encoder."""
    if not report.failed:
        return
    for failure in report.failed[:20]:
        _log.warning("not embedded: %s: %s", failure["item_id"], failure["reason"])
    share = len(report.failed) / report.items
    if share > max_failed_share or not sum(report.counts):
        first = report.failed[0]
        raise EmbeddingFailed(
            f"the encoder may refuse {max_failed_share:.2%} of the images, it refused {len(report.failed)} of"
            f" {report.items}, the first {first['item_id']!r}: {first['reason']}"
        )


def read_encoder_info(folder: pathlib.Path) -> tuple[EncoderInfo, str]:
    """Returns what the complete encoder in a local `folder` says of itself, and the digest of its files."""
    path = folder / ENCODER_INFO
    if not path.is_file():
        raise ValueError(f"a complete encoder must hold {ENCODER_INFO}, {folder} doesn't.")
    info = EncoderInfo.from_json(path.read_bytes())
    if not info.normalised:
        raise ValueError("the encoder must return embeddings of unit length, its description says that it doesn't.")
    return info, tree_digest(list_files(folder))


def encoder_json(info: EncoderInfo, digest: str) -> bytes:
    """Returns `encoder.json`."""
    return (
        json.dumps({"digest": digest, "info": json.loads(info.to_json())}, indent=1, sort_keys=True) + "\n"
    ).encode()


@component(use_beam=True)
def Embedder(
    examples: InputArtifact[standard_artifacts.Examples],
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing],
    embeddings: OutputArtifact[Embeddings],
    base: InputArtifact[BaseRelease] = None,
    serving_root: Parameter[str] = "",
    batch_size: Parameter[int] = 256,
    threads: Parameter[int] = 0,
    max_failed_share: Parameter[float] = 0.01,
    code: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes the embeddings of every item of `examples`, by the complete encoder that `infra_blessing` holds.

    base: of a reindex: the release that holds what `examples` keep of it, with its embeddings and thumbnails.
    serving_root: whose embeddings cache is read and added to; empty for none. batch_size: images per call.
    threads: that each worker keeps busy, 0 for as many as there are cores; 1 where there is a worker for each core.
    max_failed_share: of the items, in [0, 1]; more refused images than this fail the run.
    code: the fingerprint of our code.
    """
    if not model_utils.is_infra_validated(infra_blessing):
        raise ValueError(f"the encoder in {infra_blessing.uri} did not pass its validation: nothing to embed with.")
    if passed_on(examples.uri, embeddings.uri):
        _log.info("nothing has changed: nothing to embed")
        return
    encoder = path_utils.stamped_model_path(infra_blessing.uri)
    with fetched_folder(encoder) as folder:
        info, digest = read_encoder_info(folder)
    options = EmbedOptions(
        *(encoder, digest, info.dimension, embeddings.uri, serving_root, batch_size, examples.uri),
        base=None if base is None else read_base(base.uri),
        threads=threads,
    )
    store = open_store(embeddings.uri)
    store.write(embedding_parts.ENCODER, encoder_json(info, digest))
    shards = list_shards(examples.uri)
    started = time.monotonic()
    with beam_pipeline as pipeline:
        # Create spreads them over the workers.
        _ = pipeline | "Shards" >> beam.Create(shards) | EmbedExamples(options, shards)
    report = embedding_parts.read_report(store)
    seconds = time.monotonic() - started
    check_failures(report, max_failed_share)
    if not sum(report.counts):
        raise EmbeddingFailed(f"the examples at {examples.uri} must hold at least one item, they hold none.")
    _log.info(
        "embedded %d items in %.2f s (%.0f per second): %d contents encoded, %d from the cache, %d items kept, "
        "%d failed",
        *(sum(report.counts), seconds, report.items / seconds, report.encoded, report.cached, report.kept),
        len(report.failed),
    )
