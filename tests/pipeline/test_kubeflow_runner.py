import dataclasses
import json
import types
from typing import Any

import pytest
import yaml
from kfp import components as kfp_components

from components.ingest.listing import MAX_LEVELS
from pipeline.beam_options import with_nothing_staged
from pipeline.commands import compile as command
from pipeline.config import ConfigError, PipelineConfig, load
from pipeline.kubeflow_config import KubeflowConfig, StepConfig
from pipeline.kubeflow_runner import PIPELINES, RUN, compile_pipeline, to_yaml
from tests.pipeline.test_kubeflow_client import lookalike

OPTIONS = [
    "ingest.images=gs://bucket/photos",
    "root=gs://bucket/runs",
    "serving_root=/releases",
    "encoder.height=28",
    "encoder.width=28",
    "encoder.channels=1",
    "kubeflow.image=registry.example/lookalike:1",
]


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    return load(None, OPTIONS)


@pytest.fixture(scope="module", params=PIPELINES)
def compiled(request: pytest.FixtureRequest, config: PipelineConfig) -> types.SimpleNamespace:
    (spec,) = compile_pipeline(config, request.param)
    return types.SimpleNamespace(kind=request.param, spec=spec)


def with_kubeflow(config: PipelineConfig, **options: Any) -> PipelineConfig:
    return dataclasses.replace(config, kubeflow=KubeflowConfig(image="image:1", **options))


def container(spec: dict[str, Any], step: str) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"][f"{step}_executor"]["container"]


def task(spec: dict[str, Any], step: str) -> dict[str, Any]:
    return spec["root"]["dag"]["tasks"][step]


def test_every_step_is_a_container_of_the_image_and_none_a_resolver(compiled):
    # Open-source Kubeflow may not run a resolver or an importer of TFX's.
    executors = compiled.spec["deploymentSpec"]["executors"]
    assert [list(executor) for executor in executors.values()] == [["container"]] * len(executors)
    assert "resolver" not in json.dumps(compiled.spec).lower()
    for executor in executors.values():
        assert executor["container"]["image"] == "registry.example/lookalike:1"
        assert executor["container"]["command"][-1].endswith("kubeflow_v2_run_executor")


def test_the_sdk_loads_it_and_finds_the_parameters_with_their_defaults(compiled):
    loaded = kfp_components.load_component_from_text(to_yaml([compiled.spec]))
    found = {name: (told.type, told.default) for name, told in loaded.component_spec.inputs.items()}
    expected = {"images": ("String", "gs://bucket/photos"), "serving_root": ("String", "/releases")}
    own = {"training": ("epochs", 12), "reindex": ("encoder_version", 0)}
    name, default = own[compiled.kind]
    expected[name] = ("Integer", default)
    assert found == expected
    assert compiled.spec["schemaVersion"] == "2.1.0"


def test_a_parameter_reaches_every_step_that_names_it(compiled):
    told = {}
    for name, step in compiled.spec["root"]["dag"]["tasks"].items():
        for key, value in step["inputs"].get("parameters", {}).items():
            if "componentInputParameter" in value:
                told.setdefault(value["componentInputParameter"], set()).add((name, key))
            elif key == "serving_root":
                pytest.fail(f"{name} has a serving root of its own: {value}")
    assert told["images"] == {("ImageExampleGen", "images"), ("ImageExampleGen", "input_base")}
    assert ("Publisher", "serving_root") in told["serving_root"]
    if compiled.kind == "training":
        assert told["epochs"] == {("Trainer", "epochs")}
    else:
        assert told["encoder_version"] == {("ReleaseEncoder", "encoder_version")}


def test_the_last_span_is_a_parameter_where_there_are_spans(config):
    ingest = dataclasses.replace(config.ingest, span_pattern="span-{SPAN}")
    for kind in PIPELINES:
        (spec,) = compile_pipeline(dataclasses.replace(config, ingest=ingest), kind)
        assert spec["root"]["inputDefinitions"]["parameters"]["last_span"]["defaultValue"] == -1
        told = task(spec, "ImageExampleGen")["inputs"]["parameters"]["last_span"]
        assert told == {"componentInputParameter": "last_span"}


def test_a_release_claims_no_option_that_the_run_may_have_been_told_otherwise(compiled):
    told = task(compiled.spec, "Publisher")["inputs"]["parameters"]["lineage"]["runtimeValue"]["constant"]
    config = json.loads(told)["config"]
    assert "serving_root" not in config and "images" not in config["ingest"]
    assert ("epochs" in config["training"]) == (compiled.kind == "reindex")
    assert ("encoder_version" in config["reindex"]) == (compiled.kind == "training")
    assert config["ingest"]["shards"] == 8


def test_the_images_of_an_archive_or_a_manifest_are_compiled_in(config):
    # Which files TFX's driver looks at depends on the kind.
    for images in ("gs://bucket/photos.zip", "gs://bucket/photos.csv"):
        ingest = dataclasses.replace(config.ingest, images=images)
        (spec,) = compile_pipeline(dataclasses.replace(config, ingest=ingest), "training")
        assert set(spec["root"]["inputDefinitions"]["parameters"]) == {"serving_root", "epochs"}
        assert task(spec, "ImageExampleGen")["inputs"]["parameters"]["images"]["runtimeValue"]["constant"] == images


def test_the_driver_that_kubeflow_can_run_looks_at_every_level(compiled):
    driver = container(compiled.spec, "ImageExampleGen")["lifecycle"]["preCacheCheck"]
    assert driver["command"][-1] == "tfx.orchestration.kubeflow.v2.file_based_example_gen.driver"
    told = task(compiled.spec, "ImageExampleGen")["inputs"]["parameters"]["input_config"]["runtimeValue"]["constant"]
    patterns = [split["pattern"] for split in json.loads(told)["splits"]]
    assert patterns == ["/".join("*" * level) for level in range(1, MAX_LEVELS + 1)]


def test_no_step_that_looks_outside_is_answered_from_a_cache(config):
    def cached(kind: str, **options: Any) -> set[str]:
        (spec,) = compile_pipeline(with_kubeflow(config, **options), kind)
        tasks = spec["root"]["dag"]["tasks"].items()
        return {name for name, told in tasks if told["cachingOptions"].get("enableCache")}

    assert len(cached("training")) == 13
    assert not {"ImageExampleGen", "Publisher"} & cached("training")
    assert not cached("reindex")
    told = {"ImageExampleGen": StepConfig(cache=True), "Trainer": StepConfig(cache=False)}
    assert "ImageExampleGen" in cached("training", steps=told) and "Trainer" not in cached("training", steps=told)


def test_publisher_is_told_the_id_of_the_run(config):
    (spec,) = compile_pipeline(config, "training")
    assert task(spec, "Publisher")["inputs"]["parameters"]["run"]["runtimeValue"]["constant"] == RUN


def test_resources_retries_and_beam_options_are_of_all_steps_or_of_one(config):
    flink = ("--runner=FlinkRunner", "--flink_master=flink:8081")
    steps = {
        "Trainer": StepConfig(cpu=4.0, memory=8.0, retries=0),
        "Embedder": StepConfig(beam_args=flink),
        "ImageExampleGen": StepConfig(beam_args=flink, memory=2.5),
    }
    (spec,) = compile_pipeline(with_kubeflow(config, cpu=0.5, memory=3.0, retries=5, steps=steps), "training")

    def resources(step: str) -> tuple[float, ...]:
        told = container(spec, step)["resources"]
        return tuple(told[name] for name in ("cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit"))

    assert resources("Trainer") == (4.0, 4.0, 8.0, 8.0)
    assert resources("Publisher") == resources("Embedder") == (0.5, 0.5, 3.0, 3.0)
    assert resources("ImageExampleGen") == (0.5, 0.5, 2.5, 2.5)
    assert task(spec, "Publisher")["retryPolicy"]["maxRetryCount"] == 5
    assert "maxRetryCount" not in task(spec, "Trainer")["retryPolicy"]

    beam = with_nothing_staged(config.beam_args)
    for step in ("Embedder", "ImageExampleGen"):
        assert container(spec, step)["args"][-2:] == list(flink)
        assert not set(beam) & set(container(spec, step)["args"])
    assert container(spec, "IndexBuilder")["args"][-len(beam) :] == beam


def test_volumes_are_mounted_in_every_step(config):
    spec, platform = compile_pipeline(with_kubeflow(config, volumes={"releases": "/releases"}), "reindex")
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(spec["deploymentSpec"]["executors"])
    mounts = [{"constant": "releases", "mountPath": "/releases"}]
    assert all(executor == {"pvcMount": mounts} for executor in executors.values())
    assert kfp_components.load_component_from_text(to_yaml([spec, platform]))


def test_artifacts_lie_below_the_root_where_that_is_a_bucket(config, compiled):
    folder = {"training": "artifacts", "reindex": "reindex"}[compiled.kind]
    assert compiled.spec["defaultPipelineRoot"] == f"gs://bucket/runs/{folder}"
    (spec,) = compile_pipeline(dataclasses.replace(config, root="/runs"), compiled.kind)
    assert "defaultPipelineRoot" not in spec


def test_the_same_config_gives_the_same_file(config):
    # What is uploaded is named by its content.
    for kind in PIPELINES:
        assert to_yaml(compile_pipeline(config, kind)) == to_yaml(compile_pipeline(config, kind))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("name=Look_alike", "name must match"),
        ("kubeflow.image=''", "kubeflow.image must name the image"),
        ("root=runs", "root must be a URL or an absolute path on Kubeflow, got 'runs'"),
        ("serving_root=runs/serving", "serving_root must be a URL"),
        ("ingest.images=photos", "ingest.images must be a URL"),
        ("encoder.height=0", "encoder.height, width and channels must be set"),
        ("kubeflow.steps={Trainr: {cpu: 1}}", "kubeflow.steps.Trainr: there are ImageExampleGen"),
        (
            "kubeflow.steps={Trainer: {beam_args: [--runner=FlinkRunner]}}",
            "kubeflow.steps.Trainer.beam_args: this step doesn't run on",
        ),
        ("kubeflow.steps={Trainer: {gpu: 1}}", "unknown option kubeflow.steps.Trainer.gpu"),
        ("kubeflow.steps={Trainer: {cpu: 0}}", "cpu must be in"),
        ("kubeflow.memory=0", "memory must be in"),
        ("kubeflow.retries=-1", "retries must be in"),
        ("kubeflow.volumes={claim: releases}", "kubeflow.volumes.claim must be an absolute path"),
    ],
)
def test_what_a_pod_could_not_find_is_refused(tmp_path, capsys, option, message):
    output = tmp_path / "pipeline.yaml"
    flags = [flag for each in [*OPTIONS, option] for flag in ("--set", each)]
    assert lookalike(command, "--output", str(output), *flags) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_step_of_the_other_pipeline_may_be_configured(config):
    # One config file serves both pipelines.
    steps = {"Trainer": StepConfig(cpu=4.0), "ReleaseEncoder": StepConfig(cpu=2.0)}
    for kind in PIPELINES:
        assert compile_pipeline(with_kubeflow(config, steps=steps), kind)


def test_the_command_writes_the_file(tmp_path, config, capsys):
    output = tmp_path / "pipeline.yaml"
    flags = [flag for each in OPTIONS if "image=" not in each for flag in ("--set", each)]
    told = ["--pipeline", "reindex", "--image", "registry.example/lookalike:1", "--output", str(output)]
    assert lookalike(command, *told, *flags) == 0
    assert "registry.example/lookalike:1" in capsys.readouterr().out
    assert list(yaml.safe_load_all(output.read_text())) == compile_pipeline(config, "reindex")


def test_an_unknown_pipeline_is_refused(config):
    with pytest.raises(ConfigError, match="pipeline must be one of"):
        compile_pipeline(config, "retrain")
