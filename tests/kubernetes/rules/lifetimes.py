"""Starting, stopping and repeating."""

import re
from collections.abc import Iterator

from tests.kubernetes import commands
from tests.kubernetes.rendered import Object, of_kind, workloads
from tests.kubernetes.rules.configuration import gateway_config
from tests.kubernetes.rules.rule import rule


@rule
def rollouts_take_nothing_away(objects: list[Object]) -> Iterator[str]:
    for workload in workloads(objects):
        if workload.kind not in ("Deployment", "StatefulSet"):
            continue
        gpu = any("nvidia.com/gpu" in c["resources"]["limits"] for c in workload.containers)
        # A StatefulSet's goes first; that another replica answers is for its budget and its readers.
        if (
            workload.kind == "Deployment"
            and not gpu
            and workload.owner["spec"]["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0
        ):
            yield f"{workload} takes a pod away before its successor is there."
        grace = workload.spec.get("terminationGracePeriodSeconds", 30)
        for container in workload.containers:
            if commands.is_gateway(container):
                config = gateway_config(workload, container, objects)
                if grace <= config.drain_seconds + config.grace_seconds:
                    yield f"{workload} is killed after {grace} s, while it drains."
                probe = container["readinessProbe"]
                noticed = probe["periodSeconds"] * probe["failureThreshold"]
                if config.drain_seconds <= noticed:
                    yield f"{workload} drains for {config.drain_seconds} s, which its probe needs to notice."
                live = container["livenessProbe"]
                if live["periodSeconds"] * live["failureThreshold"] <= config.drain_seconds:
                    yield f"{workload} is killed by its liveness probe while it drains."
            elif commands.is_tfserving(container):
                # SIGTERM is ignored: the pause before it is all the time that there is.
                sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                ages = [int(n) for n in re.findall(r"max_connection_age\w*_ms=(\d+)", str(container["args"]))]
                if len(ages) != 2 or not sum(ages) / 1000 < sleep < grace:
                    yield f"{workload}: connections of {ages} ms, a pause of {sleep} s, a grace of {grace} s."


@rule
def the_reindex_runs_alone(objects: list[Object]) -> Iterator[str]:
    for job in of_kind(objects, "CronJob"):
        spec = job["spec"]
        missing = [
            name
            for name in ("timeZone", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
            if name not in spec
        ]
        missing += [
            name
            for name in ("backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds")
            if name not in spec["jobTemplate"]["spec"]
        ]
        if missing:
            yield f"CronJob {job['metadata']['name']} lacks {missing}."
        if spec.get("concurrencyPolicy") != "Forbid":
            yield f"CronJob {job['metadata']['name']} may run twice at once."
