"""Nobody may do more than it needs, and each is shielded from the others."""

from collections.abc import Iterator

from tests.kubernetes import commands
from tests.kubernetes.rendered import Object, containers, of_kind, selects, workloads
from tests.kubernetes.rules.rule import rule


@rule
def everybody_has_a_policy(objects: list[Object]) -> Iterator[str]:
    policies = of_kind(objects, "NetworkPolicy")
    if not any(p["spec"]["podSelector"] == {} and "ingress" not in p["spec"] for p in policies):
        yield "there is no policy that denies what is not named."
    for workload in workloads(objects):
        own = [p for p in policies if p["spec"]["podSelector"] and selects(p["spec"]["podSelector"], workload.labels)]
        if not own:
            yield f"{workload} has no NetworkPolicy of its own."


@rule
def everybody_has_a_budget(objects: list[Object]) -> Iterator[str]:
    for workload in workloads(objects):
        budgets = [
            b for b in of_kind(objects, "PodDisruptionBudget") if selects(b["spec"]["selector"], workload.labels)
        ]
        if workload.kind in ("Deployment", "StatefulSet") and len(budgets) != 1:
            yield f"{workload} has {len(budgets)} disruption budgets."


@rule
def everybody_has_limits(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if "cpu" not in requests or "memory" not in limits or requests.get("memory") != limits["memory"]:
            yield f"{workload} must request processors, and as much memory as its limit."
    for workload in workloads(objects):
        for volume in workload.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{workload}: volume {volume['name']} has no limit."


@rule
def everybody_is_restricted(objects: list[Object]) -> Iterator[str]:
    for workload in workloads(objects):
        pod = workload.spec.get("securityContext", {})
        if not pod.get("runAsNonRoot") or pod.get("runAsUser", 0) == 0:
            yield f"{workload} may run as root."
        if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{workload} has no seccomp profile."
        if workload.spec.get("automountServiceAccountToken") is not False:
            yield f"{workload} gets a token that it doesn't need."
        for container in workload.containers:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{workload} can gain privileges."
            if not own.get("readOnlyRootFilesystem"):
                yield f"{workload} can write into its image."


@rule
def images_are_pinned(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        name, _, tag = container["image"].rpartition("/")[2].partition(":")
        if "@sha256:" not in container["image"] and tag in ("", "latest"):
            yield f"{workload}: {name} names no version."


@rule
def nothing_dangerous_is_on(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        if commands.is_tfserving(container):
            flags = commands.tfserving_flags(container)
            if flags.get("enable_profiler") != "false":
                yield f"{workload} lets whoever reaches it profile it."
    for service in of_kind(objects, "Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"Service {service['metadata']['name']} is open to the outside."
