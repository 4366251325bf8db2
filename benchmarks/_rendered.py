"""The processes of the rendered manifests, on this machine: their flags and files, with other folders, ports and haste.

What can't be had here is left out and told: TF Serving itself (our model server takes its place, with those of its
flags that it has), the probes' kubelet, the network.
"""

import dataclasses
import pathlib
import re
import subprocess
from typing import Any

import yaml

from benchmarks._processes import REPOSITORY
from pipeline import processes

_CONFIG_FOLDER = "/etc/lookalike/"
_SERVING_ROOT = "/serving-root"
# TF Serving's flag, and ours.
_SERVER_FLAGS = {"file_system_poll_wait_seconds": "--poll-seconds", "max_num_load_retries": "--max-load-retries"}
_BATCHING = {
    "max_batch_size": "--max-batch-size",
    "batch_timeout_micros": "--batch-timeout-micros",
    "num_batch_threads": "--batch-threads",
    "max_enqueued_batches": "--max-enqueued-batches",
}


@dataclasses.dataclass(frozen=True)
class Pace:
    """How much sooner things happen than in the manifests; what clients need is kept."""

    faster: float
    # Clients look for a gateway that is back every 2 seconds, and gateways for an encoder.
    least_ready: float = 3.0

    def seconds(self, told: float) -> float:
        """Returns what to wait in place of so many seconds."""
        return told / self.faster

    def ready_seconds(self, told: float) -> float:
        """Returns for how long a pod must have been ready before the next one goes."""
        return max(self.least_ready, told / self.faster)


class Manifests:
    """What `kubectl kustomize` makes of a folder of kubernetes/."""

    def __init__(self, folder: str) -> None:
        kubectl = REPOSITORY / ".venv" / "checks" / "bin" / "kubectl"
        command = [str(kubectl), "kustomize", str(REPOSITORY / "kubernetes" / folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self._objects = list(yaml.load_all(done.stdout, yaml.CSafeLoader))

    def deployment(self, name: str) -> dict[str, Any]:
        """Returns the spec of a Deployment."""
        (found,) = (o for o in self._objects if o["kind"] == "Deployment" and o["metadata"]["name"] == name)
        spec: dict[str, Any] = found["spec"]
        return spec

    def pod(self, name: str) -> dict[str, Any]:
        """Returns the spec of a Deployment's pods."""
        spec: dict[str, Any] = self.deployment(name)["template"]["spec"]
        return spec

    def container(self, name: str) -> dict[str, Any]:
        """Returns the one container of a Deployment's pods."""
        (container,) = self.pod(name)["containers"]
        first: dict[str, Any] = container
        return first

    def config(self, name: str) -> dict[str, str]:
        """Returns the files that a Deployment has its configuration from."""
        (config,) = (v["configMap"]["name"] for v in self.pod(name)["volumes"] if v["name"] == "config")
        (found,) = (o for o in self._objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == config)
        files: dict[str, str] = found["data"]
        return files


def gateway_command(
    manifests: Manifests, folder: pathlib.Path, *, root: pathlib.Path, encoder: str, pace: Pace
) -> list[str]:
    """Returns how a gateway is started here. folder: for its options. encoder: its address, in place of the name."""
    options = yaml.safe_load(manifests.config("gateway")["gateway.yaml"])
    if options["serving_root"] != _SERVING_ROOT:
        raise ValueError(f"the serving root must be a volume, got {options['serving_root']}.")
    options |= {"serving_root": str(root), "encoder": encoder, "host": "127.0.0.1"}
    options["drain_seconds"] = pace.seconds(options["drain_seconds"])
    options["monitoring"] |= {"metrics_port": 0, "metrics_host": "127.0.0.1"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateway.yaml").write_text(yaml.safe_dump(options))
    arguments = [text.replace(_CONFIG_FOLDER, f"{folder}/") for text in manifests.container("gateway")["args"]]
    return [processes.environment_command("serving"), *arguments]


def model_server_command(
    manifests: Manifests, folder: pathlib.Path, *, root: pathlib.Path
) -> tuple[list[str], list[str]]:
    """Returns how our model server is started in TF Serving's place, and the flags that have no counterpart."""
    files = manifests.config("tensorflow-serving")
    folder.mkdir(parents=True, exist_ok=True)
    models = folder / "models.config"
    models.write_text(files["models.config"].replace(f'"{_SERVING_ROOT}/', f'"{root}/'))
    command = [processes.environment_command("pipeline"), "model-server", "--model-config-file", str(models)]
    missing = []
    for argument in manifests.container("tensorflow-serving")["args"]:
        name, _, value = argument.removeprefix("--").partition("=")
        if name in _SERVER_FLAGS:
            command += [_SERVER_FLAGS[name], value]
        elif name == "batching_parameters_file":
            given = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", files["batching.config"], re.MULTILINE))
            command += [word for key, flag in _BATCHING.items() for word in (flag, given[key])]
        elif name not in ("port", "model_config_file", "enable_batching"):
            missing.append(f"--{name}")
    return command, missing
