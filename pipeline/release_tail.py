"""The tail that both pipelines share: embeddings, their index, and one release of it and its encoder."""

import dataclasses
import json
from typing import Any

from components.embedder import Embedder
from components.index_builder import IndexBuilder
from components.index_evaluator import IndexEvaluator
from components.publisher import Publisher
from pipeline.config import PipelineConfig
from pipeline.index_config import IndexConfig


def release_tail(
    config: PipelineConfig,
    *,
    name: str,
    example_gen: Any,
    infra_blessing: Any,
    base: Any = None,
    publishing: dict[str, Any],
    code: str,
) -> list[Any]:
    """Returns Embedder, IndexBuilder, IndexEvaluator and Publisher, in this order.

    name: of the pipeline, for the lineage. example_gen: what has read the images. infra_blessing: the complete encoder.
    base: what the current release holds already; it isn't embedded again. publishing: what Publisher is given by this
    pipeline alone. code: the fingerprint.
    """
    reused = {} if base is None else {"base": base}
    embedder = Embedder(
        examples=example_gen.outputs["examples"],
        infra_blessing=infra_blessing,
        serving_root=config.serving_root,
        batch_size=config.embedding.batch_size,
        threads=config.embedding.threads,
        code=code,
        **reused,
    )
    builder = IndexBuilder(
        embeddings=embedder.outputs["embeddings"],
        shards=config.index.shards,
        parameters=index_parameters(config.index),
        duplicates=json.dumps(dataclasses.asdict(config.index.duplicates), sort_keys=True),
        tuning=index_tuning(config.index),
        code=code,
        **reused,
    )
    evaluator = IndexEvaluator(
        index=builder.outputs["index"],
        embeddings=embedder.outputs["embeddings"],
        min_recall=config.index.min_recall,
        code=code,
    )
    # One release of both, served from the moment it is complete.
    publisher = Publisher(
        index=builder.outputs["index"],
        index_evaluation=evaluator.outputs["evaluation"],
        report=example_gen.outputs["report"],
        updates=example_gen.outputs["updates"],
        serving_root=config.serving_root,
        model_name=config.model_name,
        lineage=json.dumps({"pipeline": name, "config": dataclasses.asdict(config)}, sort_keys=True),
        code=code,
        **reused,
        **publishing,
    )
    return [embedder, builder, evaluator, publisher]


def index_parameters(index: IndexConfig) -> str:
    """Returns the options of serving.index.IndexParameters that the config states, as JSON."""
    stated = dict(index.parameters)
    if index.kind != "auto":
        stated["kind"] = index.kind
    return json.dumps(stated, sort_keys=True)


def index_tuning(index: IndexConfig) -> str:
    """Returns the options of components.tuning.options.TuningOptions that the config states, as JSON."""
    search = dataclasses.asdict(index.tuning)
    method = search.pop("method")
    value = {"method": method, "target": index.recall_target, "bytes_per_item": index.bytes_per_item, "search": search}
    return json.dumps(value, sort_keys=True)
