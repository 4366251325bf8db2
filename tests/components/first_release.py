"""A serving root with a first release of a folder of images, made without training: what a reindex builds on."""

import pathlib

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.artifacts import Embeddings, IndexEvaluation, VectorIndex
from components.embedder import Embedder
from components.image_example_gen import ingest
from components.index_builder import IndexBuilder
from components.index_evaluator import IndexEvaluator
from components.ingest.shards import IngestOptions
from components.publisher import data_lineage, publish_artifacts
from pipeline.config import PipelineConfig


def beam_pipeline() -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions(list(PipelineConfig().beam_args)))


def artifact(kind, folder: pathlib.Path):
    made = kind()
    made.uri = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return made


def publish_first(root: pathlib.Path, images, encoder, serving_root=None, shards: int = 2, **options) -> str:
    """Publishes `images` as `encoder` (see tiny.make_encoder) embeds them; returns the release's id."""
    serving_root = str(serving_root or root / "serving")
    ingested = IngestOptions(shards=shards, **options)
    examples = artifact(standard_artifacts.Examples, root / "first/examples")
    report = str(root / "first/report")
    ingest(ingested.source(str(images)), ingested, examples.uri, report, beam_pipeline())
    embeddings = artifact(Embeddings, root / "first/embeddings")
    index, evaluation = artifact(VectorIndex, root / "first/index"), artifact(IndexEvaluation, root / "first/evaluation")
    Embedder.test_call(
        examples=examples,
        infra_blessing=encoder.blessing,
        embeddings=embeddings,
        serving_root=serving_root,
        beam_pipeline=beam_pipeline(),
    )
    IndexBuilder.test_call(embeddings=embeddings, index=index, beam_pipeline=beam_pipeline())
    IndexEvaluator.test_call(index=index, embeddings=embeddings, evaluation=evaluation)
    published = publish_artifacts(
        encoder=path_utils.stamped_model_path(encoder.blessing.uri),
        index=index.uri,
        evaluation=evaluation.uri,
        serving_root=serving_root,
        model_name="encoder",
        lineage=data_lineage(report),
        holder="test",
    )
    encoder.calls()
    return published.release_id
