"""Probes ask what is there, where it is."""

from collections.abc import Iterator

from serving.gateway.health import ENCODER, SERVICE
from serving.leaves.service import SERVICE as LEAF
from tests.kubernetes import commands
from tests.kubernetes.rendered import PROBES, Object, Workload, container_ports, workloads
from tests.kubernetes.rules.rule import rule


@rule
def probes_hit_what_is_there(objects: list[Object]) -> Iterator[str]:
    for workload in workloads(objects):
        if workload.kind == "CronJob":
            continue
        for container in workload.containers:
            ports = container_ports(container)
            for name in PROBES:
                probe = container.get(name)
                where = f"{workload}, {name}"
                if probe is None:
                    yield f"{where} is missing."
                elif len({"grpc", "httpGet", "exec", "tcpSocket"} & set(probe)) != 1:
                    yield f"{where} must do one thing, does {sorted(probe)}."
                elif "grpc" in probe:
                    if probe["grpc"]["port"] != ports.get("grpc"):
                        yield f"{where} asks port {probe['grpc']['port']}, gRPC is on {ports.get('grpc')}."
                    if probe["grpc"].get("service", "") not in _health_names(workload, container):
                        yield f"{where} asks for {probe['grpc']['service']}, which {workload.name} does not know."
                elif "httpGet" in probe:
                    if probe["httpGet"]["port"] not in ports:
                        yield f"{where} asks port {probe['httpGet']['port']!r}, which is not named."
                    if not probe["httpGet"]["path"].endswith("/models/encoder"):
                        yield f"{where} asks {probe['httpGet']['path']}, which is no model's status."
                elif "exec" in probe:
                    yield from _health_command(where, probe["exec"]["command"], ports)


def _health_names(workload: Workload, container: Object) -> set[str]:
    if not commands.is_gateway(container):
        return {"", "ModelService", "PredictionService"}
    # Of those with replicas by name each is a leaf.
    return {"", LEAF, ENCODER} if workload.kind == "StatefulSet" else {"", SERVICE, ENCODER}


def _health_command(where: str, command: list[str], ports: dict[str, int]) -> Iterator[str]:
    arguments, said = commands.parse_command(command)
    if arguments is None:
        yield f"{where}: {said}"
    elif arguments.address.rpartition(":")[2] != str(ports.get("grpc")):
        yield f"{where} asks {arguments.address}, gRPC is on {ports.get('grpc')}."
    elif arguments.service not in ("", SERVICE, ENCODER):
        yield f"{where} asks for {arguments.service}, which the gateway does not know."
