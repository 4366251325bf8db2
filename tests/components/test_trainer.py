import json
import pathlib
from typing import Any

from tfx import v1 as tfx
from tfx.types import Channel, standard_artifacts
from tfx.utils import json_utils

from components.trainer import Executor, Trainer


def record(fn_args: Any) -> None:
    """A run_fn that only says what it was told, and leaves a model for TFX to find."""
    model = pathlib.Path(fn_args.serving_model_dir)
    model.mkdir(parents=True)
    (model / "saved_model.pb").touch()
    logs = pathlib.Path(fn_args.model_run_dir)
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "told.json").write_text(json.dumps(fn_args.custom_config))


def artifact(kind: type, folder: pathlib.Path) -> Any:
    folder.mkdir()
    made = kind()
    made.uri = str(folder)
    return made


def test_the_epochs_that_a_run_is_told_replace_those_of_the_config(tmp_path):
    examples = artifact(standard_artifacts.Examples, tmp_path / "examples")
    examples.split_names = '["train", "eval"]'
    schema = artifact(standard_artifacts.Schema, tmp_path / "schema")
    (tmp_path / "schema" / "schema.pbtxt").touch()
    transform = artifact(standard_artifacts.TransformGraph, tmp_path / "transform")
    model = artifact(standard_artifacts.Model, tmp_path / "model")
    run = artifact(standard_artifacts.ModelRun, tmp_path / "run")
    inputs = {"examples": examples, "schema": schema, "transform_graph": transform}
    step = Trainer(
        run_fn="tests.components.test_trainer.record",
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        custom_config={"training": {"epochs": 12, "seed": 1}, "code": "x"},
        epochs=3,
        **{name: Channel(type=type(value)) for name, value in inputs.items()},
    )
    assert step.id == "Trainer" and set(step.outputs) == {"model", "model_run"}
    Executor().Do(
        {name: [value] for name, value in inputs.items()},
        {"model": [model], "model_run": [run]},
        dict(step.exec_properties),
    )
    (told,) = tmp_path.rglob("told.json")
    assert json.loads(told.read_text()) == {"training": {"epochs": 3, "seed": 1}, "code": "x"}
    assert json_utils.loads(step.exec_properties["custom_config"])["training"]["epochs"] == 12
