"""What selects what: labels, selectors, ports by name, and who has only one master."""

from collections.abc import Iterator

from tests.kubernetes.rendered import Object, Workload, of_kind, ports_of, selects, workloads
from tests.kubernetes.rules.rule import rule

LABELS = ("name", "component", "part-of")
# Of what selects pods: these never change, anything else may.
STABLE = {"app.kubernetes.io/name", "app.kubernetes.io/part-of"}


@rule
def everything_is_labelled(objects: list[Object]) -> Iterator[str]:
    for thing in objects:
        labels = thing["metadata"].get("labels", {})
        missing = [label for label in LABELS if f"app.kubernetes.io/{label}" not in labels]
        if missing and thing["kind"] != "Namespace":
            yield f"{thing['kind']} {thing['metadata']['name']} lacks {missing}."
    for workload in workloads(objects):
        if missing := [label for label in LABELS if f"app.kubernetes.io/{label}" not in workload.labels]:
            yield f"the pods of {workload} lack {missing}."


@rule
def selectors_match(objects: list[Object]) -> Iterator[str]:
    found = list(workloads(objects))
    for workload in found:
        if workload.kind == "CronJob":
            continue
        selector = workload.owner["spec"]["selector"]
        if not selects(selector, workload.labels):
            yield f"{workload} does not select its own pods."
        if set(selector.get("matchLabels", {})) != STABLE:
            yield f"{workload} selects by {sorted(selector['matchLabels'])}, not by {sorted(STABLE)}."
        for spread in workload.spec.get("topologySpreadConstraints", []):
            if not selects(spread.get("labelSelector"), workload.labels) or not spread["labelSelector"]:
                yield f"{workload} spreads other pods than its own."
    selecting = [
        *((o, {"matchLabels": o["spec"]["selector"]}) for o in of_kind(objects, "Service")),
        *((o, o["spec"]["selector"]) for o in of_kind(objects, "PodDisruptionBudget")),
        *((o, o["spec"]["selector"]) for o in of_kind(objects, "PodMonitor")),
    ]
    for thing, selector in selecting:
        taken = [str(workload) for workload in found if selects(selector, workload.labels)]
        if len(taken) != 1:
            yield f"{thing['kind']} {thing['metadata']['name']} selects {taken}, not one workload."
    for policy in of_kind(objects, "NetworkPolicy"):
        peers = [policy["spec"]["podSelector"]]
        for way, side in (("ingress", "from"), ("egress", "to")):
            for entry in policy["spec"].get(way, []):
                # Pods of other namespaces are not ours to know.
                peers += [p["podSelector"] for p in entry.get(side, []) if "namespaceSelector" not in p]
        for peer in peers:
            if not any(selects(peer, workload.labels) for workload in found):
                yield f"NetworkPolicy {policy['metadata']['name']} selects nobody by {peer}."


@rule
def ports_are_named_and_exist(objects: list[Object]) -> Iterator[str]:
    found = list(workloads(objects))
    for service in of_kind(objects, "Service"):
        for workload in found:
            if not selects({"matchLabels": service["spec"]["selector"]}, workload.labels):
                continue
            for port in service["spec"]["ports"]:
                if ports_of(workload).get(str(port.get("targetPort"))) is None:
                    yield f"Service {service['metadata']['name']}: {workload} has no port {port.get('targetPort')!r}."
    for monitor in of_kind(objects, "PodMonitor"):
        for workload in found:
            if selects(monitor["spec"]["selector"], workload.labels):
                for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                    if endpoint["port"] not in ports_of(workload):
                        yield f"PodMonitor {monitor['metadata']['name']}: {workload} has no port {endpoint['port']!r}."
    for policy in of_kind(objects, "NetworkPolicy"):
        name = policy["metadata"]["name"]
        for entry in policy["spec"].get("ingress", []):
            for workload in found:
                if selects(policy["spec"]["podSelector"], workload.labels):
                    for port in entry.get("ports", []):
                        if port["port"] not in ports_of(workload):
                            yield f"NetworkPolicy {name}: {workload} has no port {port['port']!r}."
        for entry in policy["spec"].get("egress", []):
            targets = [w for w in found for p in entry.get("to", []) if _reaches(p, w)]
            for workload in targets:
                for port in entry.get("ports", []):
                    if port["port"] not in ports_of(workload):
                        yield f"NetworkPolicy {name}: {workload} has no port {port['port']!r}."


def _reaches(peer: Object, workload: Workload) -> bool:
    return "namespaceSelector" not in peer and selects(peer.get("podSelector"), workload.labels)


@rule
def replicas_have_one_master(objects: list[Object]) -> Iterator[str]:
    scaled = {
        (h["spec"]["scaleTargetRef"]["kind"], h["spec"]["scaleTargetRef"]["name"]): h
        for h in of_kind(objects, "HorizontalPodAutoscaler")
    }
    found = {(w.kind, w.name): w for w in workloads(objects)}
    for target, scaler in scaled.items():
        if target not in found:
            yield f"HorizontalPodAutoscaler {scaler['metadata']['name']} scales nobody."
        elif "replicas" in found[target].owner["spec"]:
            yield f"{found[target]} says how many there are, which the autoscaler decides."
