"""Manifests as kubectl renders them, and what is in them."""

import copy
import dataclasses
import functools
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).parents[2]
KUBERNETES = ROOT / "kubernetes"
CHECKS = ROOT / ".venv" / "checks" / "bin"
Object = dict[str, Any]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# What is applied, and the combinations of components that somebody may want.
FOLDERS = sorted(
    str(file.parent.relative_to(KUBERNETES))
    for parent in ("overlays", "tests")
    for file in (KUBERNETES / parent).glob("*/kustomization.yaml")
)


@functools.cache
def _rendered(folder: str) -> list[Object]:
    command = [str(CHECKS / "kubectl"), "kustomize", str(KUBERNETES / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode or done.stderr:
        # kustomize warns of what it will no longer understand.
        raise RuntimeError(f"{folder} does not render: {done.stderr}")
    # LibYAML's loader: the other one takes ten times as long for the dashboard.
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def render(folder: str) -> list[Object]:
    """Returns the objects of a folder below kubernetes/, to be changed as one likes."""
    return copy.deepcopy(_rendered(folder))


def named(objects: list[Object], kind: str, name: str) -> Object:
    """Returns the one object of this kind and name; a generated name's hash is left out."""
    found = [o for o in objects if o["kind"] == kind and _plain(o) == name]
    if len(found) != 1:
        raise LookupError(f"{len(found)} objects are {kind} {name}.")
    return found[0]


def _plain(thing: Object) -> str:
    name = str(thing["metadata"]["name"])
    return name.rpartition("-")[0] if thing["kind"] == "ConfigMap" and "-" in name else name


@dataclasses.dataclass(frozen=True)
class Workload:
    """What makes pods. pod: the template's metadata and spec."""

    kind: str
    name: str
    owner: Object
    pod: Object

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.pod["metadata"]["labels"])

    @property
    def spec(self) -> Object:
        spec: Object = self.pod["spec"]
        return spec

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def workloads(objects: list[Object]) -> Iterator[Workload]:
    """Yields everything that makes pods."""
    for thing in objects:
        kind, name = thing["kind"], thing["metadata"]["name"]
        if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield Workload(kind, name, thing, thing["spec"]["template"])
        elif kind == "CronJob":
            yield Workload(kind, name, thing, thing["spec"]["jobTemplate"]["spec"]["template"])


def workload(objects: list[Object], name: str) -> Workload:
    """Returns the workload of this name."""
    (found,) = (each for each in workloads(objects) if each.name == name)
    return found


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Returns the objects of one kind."""
    return [thing for thing in objects if thing["kind"] == kind]


def containers(objects: list[Object]) -> Iterator[tuple[Workload, Object]]:
    """Yields every container and whose it is."""
    for workload in workloads(objects):
        for container in workload.containers:
            yield workload, container


def container_ports(container: Object) -> dict[str, int]:
    """Returns the ports of a container by their names."""
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def ports_of(workload: Workload) -> dict[str, int]:
    """Returns the ports of all containers."""
    return {name: port for each in workload.containers for name, port in container_ports(each).items()}


def config_file(objects: list[Object], name: str, file: str) -> str:
    """Returns a file of a generated ConfigMap."""
    return str(named(objects, "ConfigMap", name)["data"][file])


def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    """Returns whether a LabelSelector (or a Service's plain map below `matchLabels`) takes these labels."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    if expressions:
        raise NotImplementedError(f"matchExpressions are not read here: {expressions}")
    return all(labels.get(key) == value for key, value in wanted.items())
