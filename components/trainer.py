"""TFX's Trainer, with the number of epochs as a parameter of its own: a run on Kubeflow can be told another."""

from typing import Any, ClassVar

from tfx import types
from tfx.components.trainer import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import trainer_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils

EPOCHS = "epochs"
_CONFIG = standard_component_specs.CUSTOM_CONFIG_KEY


class Executor(executor.GenericExecutor):
    """Runs `run_fn`, with `epochs` put into the section `training` of its `custom_config`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Trains; raises what `run_fn` raises."""
        told = dict(exec_properties)
        config = json_utils.loads(told[_CONFIG])
        config["training"]["epochs"] = told.pop(EPOCHS)
        super().Do(input_dict, output_dict, {**told, _CONFIG: json_utils.dumps(config)})


class TrainerSpec(standard_component_specs.TrainerSpec):
    """TFX's spec of a Trainer, with `epochs`."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.TrainerSpec.PARAMETERS,
        EPOCHS: component_spec.ExecutionParameter(type=int),
    }


class Trainer(base_component.BaseComponent):
    """Trains by `run_fn`, an import path. Outputs: `model` and `model_run`.

    epochs: takes the place of `training.epochs` in `custom_config`. The rest is as in TFX's Trainer, whose constructor
    would make a spec without it.
    """

    SPEC_CLASS = TrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        run_fn: str,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        schema: types.BaseChannel,
        train_args: trainer_pb2.TrainArgs,
        eval_args: trainer_pb2.EvalArgs,
        custom_config: dict[str, Any],
        epochs: int,
    ) -> None:
        spec = TrainerSpec(
            run_fn=run_fn,
            examples=examples,
            transform_graph=transform_graph,
            schema=schema,
            train_args=train_args,
            eval_args=eval_args,
            custom_config=json_utils.dumps(custom_config),
            epochs=epochs,
            model=types.Channel(type=standard_artifacts.Model),
            model_run=types.Channel(type=standard_artifacts.ModelRun),
        )
        super().__init__(spec=spec)
