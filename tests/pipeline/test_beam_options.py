import ast
import pathlib
import tempfile

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import direct_runner
from apache_beam.runners.portability import prism_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.utils.dependency_utils import make_beam_dependency_flags

from pipeline.beam_options import BEAM_STEPS, DIRECT_ARGS, DIRECT_RUNNER, check_runner, with_nothing_staged
from pipeline.config import ConfigError, PipelineConfig, load
from pipeline.pipeline import create_training_pipeline
from pipeline.reindex import create_reindex_pipeline

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--direct_num_workers=2",),
        ("--runner=DirectRunner",),
        ("--runner", "DirectRunner"),
        ("--runner=directrunner",),
        ("--runner=SwitchingDirectRunner",),
        ("--runner=apache_beam.runners.direct.direct_runner.DirectRunner",),
        ("--runner=FlinkRunner", "--runner=DirectRunner"),
    ],
)
def test_options_that_leave_the_choice_to_beam_are_refused(arguments):
    with pytest.raises(ConfigError, match=r"must name a runner.*FnApiRunner"):
        check_runner("beam_args", arguments)
    with pytest.raises(ConfigError, match=r"^beam_args must name a runner"):
        PipelineConfig(beam_args=arguments)


@pytest.mark.parametrize("runner", [DIRECT_RUNNER, "PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner"])
def test_any_runner_that_is_named_is_taken(runner):
    check_runner("beam_args", (f"--runner={runner}",))


def test_of_a_step_are_known_its_name_and_its_runner():
    with pytest.raises(ConfigError, match=r"step_beam_args.Trainer: the steps on Beam are ImageExampleGen"):
        load(None, ["step_beam_args={Trainer: [--runner=FlinkRunner]}"])
    with pytest.raises(ConfigError, match=r"step_beam_args.Embedder must name a runner"):
        load(None, ["step_beam_args={Embedder: [--runner=DirectRunner]}"])
    with pytest.raises(ConfigError, match=r"step_beam_args.Embedder must be a list"):
        load(None, ["step_beam_args={Embedder: --direct_num_workers=2}"])
    # What says nothing of the runner leaves it as it is.
    config = load(None, ["step_beam_args={Embedder: [--direct_num_workers=2]}"])
    assert config.step_beam_args == {"Embedder": ("--direct_num_workers=2",)}


def test_each_step_gets_its_options_after_those_of_all():
    own = ["--runner=FlinkRunner", "--flink_master=localhost:8081"]
    config = load(
        None,
        [
            "encoder={height: 28, width: 28, channels: 1}",
            "ingest.images=/images",
            f"step_beam_args={{Embedder: {own}, IndexBuilder: {own}}}",
        ],
    )
    for made in (create_training_pipeline(config), create_reindex_pipeline(config)):
        steps = {c.id: c.executor_spec for c in made.components if isinstance(c.executor_spec, BeamExecutorSpec)}
        assert steps.keys() <= set(BEAM_STEPS)
        for name, spec in steps.items():
            expected = [*with_nothing_staged(DIRECT_ARGS), *(own if name in config.step_beam_args else [])]
            assert spec.beam_pipeline_args == expected, name
        assert PipelineOptions(steps["Embedder"].beam_pipeline_args).get_all_options()["runner"] == "FlinkRunner"
    training = create_training_pipeline(config).components
    assert {c.id for c in training if isinstance(c.executor_spec, BeamExecutorSpec)} == set(BEAM_STEPS)


@pytest.mark.parametrize(
    "arguments",
    [
        DIRECT_ARGS,
        ("--runner=PortableRunner", "--environment_type=EXTERNAL", "--environment_config=localhost:50000"),
        ("--runner=DataflowRunner", "--sdk_container_image=registry.example/lookalike:1"),
    ],
)
def test_tfx_packs_nothing_for_workers_that_hold_our_code(monkeypatch, tmp_path, arguments):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told = with_nothing_staged(arguments)
    assert make_beam_dependency_flags(told) == told
    assert told[: len(arguments)] == list(arguments)
    assert list(tmp_path.iterdir()) == []


def test_workers_that_may_not_hold_it_get_what_beam_sends():
    arguments = ["--runner=FlinkRunner", "--flink_master=localhost:8081"]
    assert with_nothing_staged(arguments) == arguments


def test_the_default_runs_here_and_asks_nobody_for_a_runner(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("this would download a runner")

    monkeypatch.setattr(prism_runner.PrismJobServer, "__init__", refuse)
    monkeypatch.setattr(direct_runner.SwitchingDirectRunner, "run_pipeline", refuse)
    assert PipelineConfig().beam_args == DIRECT_ARGS
    with beam.Pipeline(options=PipelineOptions(list(DIRECT_ARGS))) as pipeline:
        assert type(pipeline.runner) is FnApiRunner
        assert_that(pipeline | beam.Create([1, 2]) | beam.Map(lambda n: n + 1), equal_to([2, 3]))


def test_no_source_file_leaves_the_choice_to_beam():
    """A pipeline without a runner, or on Beam's own `DirectRunner`, asks for Prism first, and newer Beam gets it."""
    names = {"DirectRunner", "--runner=DirectRunner", "SwitchingDirectRunner"}
    found = []
    for folder in ("components", "pipeline", "serving", "benchmarks", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text()
            if file == pathlib.Path(__file__) or not any(name in text for name in (*names, "Pipeline(")):
                continue
            for node in ast.walk(ast.parse(text)):
                named = isinstance(node, ast.Constant) and node.value in names
                makes = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "TestPipeline"
                makes = makes or (isinstance(node, ast.Call) and ast.unparse(node.func) == "beam.Pipeline")
                if named or (makes and not node.args and not node.keywords):
                    found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not found
