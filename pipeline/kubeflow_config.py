"""How a pipeline runs on Kubeflow: image, resources, retries, caching and Beam options, for all steps and for each."""

import dataclasses
from collections.abc import Mapping

from pipeline.beam_options import check_runner
from pipeline.option_checks import require


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What one step gets on Kubeflow; what is not stated is as in KubeflowConfig.

    cpu: cores. memory: gigabytes. cache: whether an earlier run may answer. beam_args: in the place of all others.
    """

    cpu: float | None = None
    memory: float | None = None
    retries: int | None = None
    cache: bool | None = None
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_resources("kubeflow.steps", self.cpu, self.memory, self.retries)
        if self.beam_args:
            check_runner("kubeflow.steps: beam_args", self.beam_args)


@dataclasses.dataclass(frozen=True)
class KubeflowConfig:
    """How a pipeline runs on Kubeflow. image: of every step. cpu (cores), memory (gigabytes), retries: of a step.

    steps: what differs, by the step's name. volumes: mount path by the name of a claim, in every step.
    """

    image: str = ""
    cpu: float = 1.0
    memory: float = 4.0
    retries: int = 2
    steps: Mapping[str, StepConfig] = dataclasses.field(default_factory=dict)
    volumes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_resources("kubeflow", self.cpu, self.memory, self.retries)
        for claim, path in self.volumes.items():
            good = isinstance(path, str) and path.startswith("/")
            require(good, f"kubeflow.volumes.{claim} must be an absolute path, got {path!r}.")


def _check_resources(where: str, cpu: float | None, memory: float | None, retries: int | None) -> None:
    require(cpu is None or 0 < cpu <= 1024, f"{where}: cpu must be in (0, 1024] cores, got {cpu}.")
    require(memory is None or 0 < memory <= 16_384, f"{where}: memory must be in (0, 16384] gigabytes, got {memory}.")
    require(retries is None or 0 <= retries <= 100, f"{where}: retries must be in [0, 100], got {retries}.")
