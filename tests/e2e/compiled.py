"""Runs a compiled pipeline as Kubeflow does: every step's driver and container, as processes, told only by the spec."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import uuid
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2


@dataclasses.dataclass
class CompiledRun:
    """One run of the spec in `file`. root: the pipeline root, a folder. parameters: told to this run.

    What it does is what the backend's driver and launcher do (kubeflow/pipelines, backend/src/v2), without its cache.
    """

    file: pathlib.Path
    root: pathlib.Path
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    run_id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    outputs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._spec = next(iter(yaml.safe_load_all(self.file.read_text())))
        # Both are messages of Kubeflow's: a field that it doesn't know is an error.
        json_format.ParseDict(self._spec, pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(self._spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
        declared = self._spec["root"].get("inputDefinitions", {}).get("parameters", {})
        assert set(self.parameters) <= set(declared), f"the pipeline takes {', '.join(declared)}"
        defaults = {name: told["defaultValue"] for name, told in declared.items() if "defaultValue" in told}
        self._values = {**defaults, **self.parameters}
        self._names = 0

    def run(self) -> None:
        """Runs every step after those it depends on; an AssertionError shows the log of the one that failed."""
        tasks = dict(self._spec["root"]["dag"]["tasks"])
        while tasks:
            ready = [name for name in tasks if not set(tasks[name].get("dependentTasks", ())) & set(tasks)]
            assert ready, f"a circle of {', '.join(tasks)}"
            for name in ready:
                self._run_task(name, tasks.pop(name))

    def artifact(self, task: str, output: str) -> pathlib.Path:
        """Returns where an output of a step lies."""
        return pathlib.Path(self.outputs[task][output]["uri"])

    def _run_task(self, name: str, task: dict[str, Any]) -> None:
        began = time.monotonic()
        component = self._spec["components"][task["componentRef"]["name"]]
        container = self._spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        folder = self.root / name / self.run_id
        output_file = folder / "executor_output.json"
        outputs = {
            output: {"uri": str(folder / output), "type": told["artifactType"], "metadata": told.get("metadata", {})}
            for output, told in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        }
        executor_input = {
            "inputs": {
                "parameterValues": {k: self._value(v) for k, v in task["inputs"].get("parameters", {}).items()},
                "artifacts": {
                    k: {"artifacts": [self._produced(v["taskOutputArtifact"])]}
                    for k, v in task["inputs"].get("artifacts", {}).items()
                },
            },
            "outputs": {
                "artifacts": {output: {"artifacts": [value]} for output, value in outputs.items()},
                "outputFile": str(output_file),
            },
        }
        driver = container.get("lifecycle", {}).get("preCacheCheck")
        if driver:
            self._execute(f"{name} driver", driver, executor_input, folder)
        self._execute(name, container, executor_input, folder)
        written = json.loads(output_file.read_text()).get("artifacts", {})
        for output, value in outputs.items():
            for changed in written.get(output, {}).get("artifacts", []):
                value["uri"] = changed.get("uri", value["uri"])
                value["metadata"] = {**value["metadata"], **changed.get("metadata", {})}
            self._names += 1
            value["name"] = str(self._names)
        self.outputs[name] = outputs
        self.seconds[name] = time.monotonic() - began

    def _value(self, told: dict[str, Any]) -> Any:
        if "componentInputParameter" in told:
            return self._values[told["componentInputParameter"]]
        constant = told["runtimeValue"]["constant"]
        # The backend replaces these where they are all of a value.
        return self.run_id if constant == "{{$.pipeline_job_uuid}}" else constant

    def _produced(self, told: dict[str, Any]) -> dict[str, Any]:
        return self.outputs[told["producerTask"]][told["outputArtifactKey"]]

    def _execute(
        self, name: str, container: dict[str, Any], executor_input: dict[str, Any], folder: pathlib.Path
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [*container["command"], *container["args"]]
        command = [json.dumps(executor_input) if word == "{{$}}" else word for word in command]
        # The image's `python` is the environment's; there is no checkout in its working folder.
        path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        log = folder / f"{name}.log"
        with log.open("wb") as handle:
            done = subprocess.run(
                command, stdout=handle, stderr=subprocess.STDOUT, cwd=folder, env=environment, timeout=600, check=False
            )
        assert done.returncode == 0, f"{name} ended with {done.returncode}\n{log.read_text()[-5000:]}"
