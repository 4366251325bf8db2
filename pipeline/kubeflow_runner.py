"""Compiles the pipelines for Kubeflow Pipelines: TFX's KubeflowV2DagRunner, and what it has no option for."""

import io
import json
import re
from collections.abc import Iterable
from typing import Any

import yaml
from google.protobuf import json_format, struct_pb2
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx import v1 as tfx
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types.standard_component_specs import INPUT_BASE_KEY as INPUT_BASE

from components.image_example_gen import IMAGES, LAST_SPAN, ImageExampleGen
from components.ingest.listing import Source
from components.trainer import EPOCHS
from pipeline.beam_options import with_nothing_staged
from pipeline.config import PipelineConfig
from pipeline.kubeflow_config import KubeflowConfig, StepConfig
from pipeline.option_checks import require, require_one_of
from pipeline.pipeline import create_training_pipeline
from pipeline.reindex import create_reindex_pipeline

# Kubeflow puts the id of the run in its place, so Publisher sees another one in every run.
RUN = "{{$.pipeline_job_uuid}}"
# Of retries: the second waits twice as long as the first.
_BACKOFF_SECONDS, _BACKOFF_FACTOR = 30, 2.0
_LINEAGE = "lineage"
_NAME = re.compile("[a-z0-9][a-z0-9-]{0,127}")

PIPELINES = ("training", "reindex")
# The options that are parameters: what a release says of its config leaves out what a run may have been told otherwise.
_OPENED = {
    "images": ("ingest", "images"),
    "serving_root": ("serving_root",),
    "epochs": ("training", "epochs"),
    "encoder_version": ("reindex", "encoder_version"),
}


def compile_pipeline(config: PipelineConfig, kind: str) -> list[dict[str, Any]]:
    """Returns the YAML documents of a pipeline: its spec (schema 2.1.0), and what only Kubernetes knows, if anything.

    kind: `training` or `reindex`. Raises ConfigError where the config doesn't tell what every pod must know.
    """
    require_one_of("pipeline", kind, PIPELINES)
    check(config)
    made = {"training": create_training_pipeline(config, run=RUN), "reindex": create_reindex_pipeline(config)}
    pipeline = made[kind]
    components = list(pipeline.components)
    _check_steps(config.kubeflow, [component.id for each in made.values() for component in each.components])
    parameters = open_parameters(config, components)
    set_beam_arguments(config.kubeflow, components)
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image=config.kubeflow.image, use_pipeline_spec_2_1=True
        )
    )
    job = runner.run(pipeline, write_out=False)
    spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    if "://" in config.root:
        # Where the root is a mounted folder, artifacts lie where the cluster keeps them: it takes nothing but buckets.
        spec.default_pipeline_root = pipeline.pipeline_info.pipeline_root
    for parameter in parameters:
        # TFX declares a parameter, and leaves its default out.
        declared = spec.root.input_definitions.parameters[parameter.name]
        json_format.ParseDict(parameter.default, declared.default_value)
        declared.description = parameter.description
        declared.is_optional = True
    for component in components:
        task = spec.root.dag.tasks[component.id]
        _set_task(config.kubeflow, component, task, cache=pipeline.enable_cache and may_cache(component))
    spec.deployment_spec.CopyFrom(_with_resources(config.kubeflow, components, spec.deployment_spec))
    documents = [json_format.MessageToDict(spec)]
    if config.kubeflow.volumes:
        documents.append(_platform(config.kubeflow, components))
    return documents


def to_yaml(documents: Iterable[dict[str, Any]]) -> str:
    """Returns the text of a compiled pipeline, the same for the same documents."""
    text = io.StringIO()
    yaml.safe_dump_all(documents, text, sort_keys=True, width=120)
    return text.getvalue()


def check(config: PipelineConfig) -> None:
    """Raises ConfigError unless every pod would find what the config names."""
    require(bool(_NAME.fullmatch(config.name)), f"name must match {_NAME.pattern} on Kubeflow, got {config.name!r}.")
    require(bool(config.kubeflow.image), "kubeflow.image must name the image of the pipeline.")
    for name, value in (
        ("root", config.root),
        ("serving_root", config.serving_root),
        ("ingest.images", config.ingest.images),
    ):
        shared = "://" in value or value.startswith("/")
        require(shared, f"{name} must be a URL or an absolute path on Kubeflow, got {value!r}.")
    encoder = config.encoder
    known = bool(encoder.height and encoder.width and encoder.channels)
    # They can't be taken from the images: those are another run's parameter.
    require(known, "encoder.height, width and channels must be set on Kubeflow.")


def open_parameters(
    config: PipelineConfig, components: Iterable[base_component.BaseComponent]
) -> list[tfx.dsl.experimental.RuntimeParameter]:
    """Leaves open what a run may be told; returns the parameters. Their defaults are what the config says."""
    made: dict[str, Any] = {}

    def parameter(name: str, kind: type, default: Any, description: str) -> Any:
        return made.setdefault(name, tfx.dsl.experimental.RuntimeParameter(name, kind, default, description))

    for component in components:
        properties = component.exec_properties
        if "serving_root" in properties:
            properties["serving_root"] = parameter(
                "serving_root", str, config.serving_root, "Where releases are published."
            )
        if EPOCHS in properties:
            properties[EPOCHS] = parameter("epochs", int, config.training.epochs, "Passes over the images.")
        if "encoder_version" in properties:
            properties["encoder_version"] = parameter(
                *("encoder_version", int, config.reindex.encoder_version),
                "The encoder to embed with; 0 for the one that the current release names.",
            )
        if isinstance(component, ImageExampleGen) and config.ingest.span_pattern:
            properties[LAST_SPAN] = parameter("last_span", int, -1, "The last span that is read; -1 for all.")
        if isinstance(component, ImageExampleGen) and Source(config.ingest.images).kind == "folder":
            # Which files TFX's driver looks at depends on the kind: of an archive or a manifest the name is fixed.
            images = parameter("images", str, config.ingest.images, "A folder of images.")
            properties[IMAGES] = images
            properties[INPUT_BASE] = images
    for component in components:
        if _LINEAGE in component.exec_properties:
            component.exec_properties[_LINEAGE] = _without(component.exec_properties[_LINEAGE], made)
    return list(made.values())


def _without(lineage: str, parameters: Iterable[str]) -> str:
    told = json.loads(lineage)
    for parameter in parameters:
        *sections, option = _OPENED.get(parameter, (parameter,))
        section = told["config"]
        for name in sections:
            section = section[name]
        section.pop(option, None)
    return json.dumps(told, sort_keys=True)


def set_beam_arguments(kubeflow: KubeflowConfig, components: Iterable[base_component.BaseComponent]) -> None:
    """Gives each step of Beam the options that the config has for it, in the place of those of all steps."""
    for component in components:
        arguments = kubeflow.steps.get(component.id, StepConfig()).beam_args
        if arguments:
            is_beam = isinstance(component.executor_spec, executor_spec.BeamExecutorSpec)
            require(is_beam, f"kubeflow.steps.{component.id}.beam_args: this step doesn't run on Beam.")
            component.executor_spec.beam_pipeline_args = with_nothing_staged(arguments)


def _check_steps(kubeflow: KubeflowConfig, known: list[str]) -> None:
    for name in kubeflow.steps:
        require(name in known, f"kubeflow.steps.{name}: there are {', '.join(dict.fromkeys(known))}.")


def _set_task(kubeflow: KubeflowConfig, component: base_component.BaseComponent, task: Any, *, cache: bool) -> None:
    step = kubeflow.steps.get(component.id, StepConfig())
    task.caching_options.enable_cache = cache if step.cache is None else step.cache
    task.retry_policy.max_retry_count = kubeflow.retries if step.retries is None else step.retries
    task.retry_policy.backoff_duration.seconds = _BACKOFF_SECONDS
    task.retry_policy.backoff_factor = _BACKOFF_FACTOR


def may_cache(component: base_component.BaseComponent) -> bool:
    """Returns whether a step may be answered by an earlier run: not where it looks at what changes outside.

    The driver that looks at the images before the cache is run by Vertex AI only: the open-source backend skips it.
    """
    return not isinstance(component, ImageExampleGen) and "run" not in component.exec_properties


def _with_resources(
    kubeflow: KubeflowConfig, components: Iterable[base_component.BaseComponent], deployment: Any
) -> struct_pb2.Struct:
    config = json_format.ParseDict(json_format.MessageToDict(deployment), pipeline_spec_pb2.PipelineDeploymentConfig())
    for component in components:
        step = kubeflow.steps.get(component.id, StepConfig())
        resources = config.executors[executor_label(component.id)].container.resources
        resources.cpu_request = resources.cpu_limit = kubeflow.cpu if step.cpu is None else step.cpu
        resources.memory_request = resources.memory_limit = kubeflow.memory if step.memory is None else step.memory
    result = struct_pb2.Struct()
    result.update(json_format.MessageToDict(config))
    return result


def _platform(kubeflow: KubeflowConfig, components: Iterable[base_component.BaseComponent]) -> dict[str, Any]:
    mounts = [{"constant": claim, "mountPath": path} for claim, path in sorted(kubeflow.volumes.items())]
    executors = {executor_label(component.id): {"pvcMount": mounts} for component in components}
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def executor_label(step: str) -> str:
    """Returns the name under which TFX's runner puts a step's container."""
    return f"{step}_executor"
