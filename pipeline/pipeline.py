"""The training pipeline, in the order in which data flows through it."""

import dataclasses
from typing import Any

import tensorflow_model_analysis as tfma
from tfx import v1 as tfx

from components import features
from components.encoder_evaluator import EncoderEvaluator
from components.fingerprint import code_fingerprint
from components.image_example_gen import ImageExampleGen
from components.schema_gate import SchemaGate
from components.serving_validator import ServingValidator
from components.trainer import Trainer
from pipeline.beam_options import set_step_options, with_nothing_staged
from pipeline.config import EvaluationConfig, IngestConfig, PipelineConfig
from pipeline.encoder_config import RECONSTRUCTING
from pipeline.release_tail import release_tail
from serving.images import ImageLimits


def create_training_pipeline(config: PipelineConfig, *, metadata: Any = None, run: str = "") -> tfx.dsl.Pipeline:
    """Returns the pipeline that turns images into a published release.

    metadata: the connection of a runner that keeps MLMD itself. run: differs from run to run, so that Publisher is
    never answered from the cache: what `CURRENT` names may have changed since.
    """
    encoder = config.encoder
    if not (encoder.height and encoder.width and encoder.channels):
        raise ValueError("encoder.height, width and channels must be set; pipeline.image_shape finds them.")
    # TFX's cache does not see code that is named by its import path: our fingerprint makes it see.
    code = code_fingerprint()

    # The images, made canonical, as examples of two splits.
    example_gen = ImageExampleGen(**ingest_options(config.ingest), serving_root=config.serving_root, code=code)
    examples = example_gen.outputs["examples"]

    # What is in the examples, and whether that is what was there before.
    statistics = tfx.components.StatisticsGen(examples=examples)
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True)
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    gate = SchemaGate(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        anomalies=validator.outputs["anomalies"],
        previous=f"{config.root}/schema/schema.pbtxt",
        accept_changes=int(config.evaluation.accept_schema_changes),
        code=code,
    )

    # Mean and variance of the pixels; pixels themselves are decoded again where they are needed, never stored.
    transform = tfx.components.Transform(
        examples=examples,
        schema=gate.outputs["accepted"],
        preprocessing_fn="pipeline.preprocessing.preprocessing_fn",
        materialize=False,
        custom_config={
            "height": encoder.height,
            "width": encoder.width,
            "channels": encoder.channels,
            "fit": encoder.fit,
            "code": code,
        },
    )

    # The autoencoder, and its encoder as a SavedModel.
    trainer = Trainer(
        epochs=config.training.epochs,
        run_fn="pipeline.trainer.run_fn",
        examples=examples,
        transform_graph=transform.outputs["transform_graph"],
        schema=gate.outputs["accepted"],
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        custom_config={
            "encoder": dataclasses.asdict(encoder),
            "training": dataclasses.asdict(config.training),
            "checkpoints": f"{config.root}/checkpoints",
            "code": code,
        },
    )

    # The reconstruction error, by slices, of a family that has one; then the encoder beside its references: the final
    # blessing.
    evaluators = []
    if encoder.family in RECONSTRUCTING:
        evaluators.append(
            tfx.components.Evaluator(
                examples=examples,
                model=trainer.outputs["model"],
                example_splits=["eval"],
                eval_config=evaluation_config(config.evaluation, labelled=bool(config.ingest.label_from)),
            )
        )
    encoder_evaluator = EncoderEvaluator(
        model=trainer.outputs["model"],
        examples=examples,
        **({"model_blessing": evaluators[0].outputs["blessing"]} if evaluators else {}),
        serving_root=config.serving_root,
        pca_tolerance=config.evaluation.pca_tolerance,
        served_tolerance=config.evaluation.served_tolerance,
        code=code,
    )

    # The complete encoder, seen to answer from a model server; pushed to a staging folder.
    serving_validator = ServingValidator(
        model=trainer.outputs["model"],
        examples=examples,
        blessing=encoder_evaluator.outputs["blessing"],
        evaluation=encoder_evaluator.outputs["evaluation"],
        code=code,
    )
    pusher = tfx.components.Pusher(
        infra_blessing=serving_validator.outputs["infra_blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=f"{config.root}/staging")
        ),
    )

    # The collection's embeddings, their index, and a release of it and the encoder.
    tail = release_tail(
        config,
        name=config.name,
        example_gen=example_gen,
        infra_blessing=serving_validator.outputs["infra_blessing"],
        publishing={"pushed_model": pusher.outputs["pushed_model"], "run": run},
        code=code,
    )
    components = [
        example_gen,
        statistics,
        schema,
        validator,
        gate,
        transform,
        trainer,
        *evaluators,
        encoder_evaluator,
        serving_validator,
        pusher,
        *tail,
    ]
    set_step_options(config.step_beam_args, components)
    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=f"{config.root}/artifacts",
        components=components,
        enable_cache=True,
        metadata_connection_config=metadata,
        beam_pipeline_args=with_nothing_staged(config.beam_args),
    )


def ingest_options(ingest: IngestConfig) -> dict[str, Any]:
    """Returns the arguments of ImageExampleGen that say what is read, and how."""
    return {
        "images": ingest.images,
        "eval_percent": ingest.eval_percent,
        "shards": ingest.shards,
        "label_from": ingest.label_from or None,
        "span_pattern": ingest.span_pattern or None,
        "max_skipped_share": ingest.max_skipped_share,
        "limits": ImageLimits(max_bytes=ingest.max_bytes, max_pixels=ingest.max_pixels, max_side=ingest.max_side),
    }


def evaluation_config(evaluation: EvaluationConfig, *, labelled: bool) -> tfma.EvalConfig:
    """Returns what Evaluator measures: the mean squared error, as a whole and by slices, and its threshold."""
    slices = [*evaluation.slice_by]
    if labelled and features.LABEL not in slices:
        slices.append(features.LABEL)
    threshold = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(upper_bound={"value": evaluation.max_mse})
    )
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                # `tf_generic` calls the signature `examples` with serialized examples.
                model_type="tf_generic",
                signature_name="examples",
                prediction_key="mse",
                # Not used, but without any label TFMA takes every mean for 0 and blesses everything.
                label_key=features.WIDTH,
            )
        ],
        slicing_specs=[tfma.SlicingSpec(), *(tfma.SlicingSpec(feature_keys=[name]) for name in slices)],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    tfma.MetricConfig(class_name="ExampleCount"),
                    tfma.MetricConfig(class_name="MeanPrediction", config='{"name": "mse"}', threshold=threshold),
                ]
            )
        ],
    )
