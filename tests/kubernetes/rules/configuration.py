"""Flags and files are those that the programs read, and say what the manifests say."""

import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import text_format

from pipeline import config as pipeline_config
from serving.gateway.checks import ConfigError
from serving.gateway.config import GatewayConfig
from serving.search.query import MAX_BATCH
from tests.kubernetes import commands
from tests.kubernetes.rendered import PROBES, Object, Workload, container_ports, containers, of_kind, workloads
from tests.kubernetes.rules.rule import rule


@rule
def listening_ports_are_those_told(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        ports = container_ports(container)
        if commands.is_tfserving(container):
            flags = commands.tfserving_flags(container)
            if (flags.get("port"), flags.get("rest_api_port")) != (str(ports["grpc"]), str(ports["http"])):
                yield f"{workload} listens on {flags.get('port')} and {flags.get('rest_api_port')}, not on {ports}."
        elif commands.is_gateway(container):
            config = gateway_config(workload, container, objects)
            if (config.port, config.monitoring.metrics_port) != (ports["grpc"], ports["metrics"]):
                yield f"{workload} listens on {config.port} and {config.monitoring.metrics_port}, not on {ports}."
            if "0.0.0.0" not in (config.host, config.monitoring.metrics_host) or config.host != "0.0.0.0":
                yield f"{workload} listens on {config.host}, where nobody reaches it."


@rule
def names_of_services_exist(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        if commands.is_gateway(container):
            encoder = gateway_config(workload, container, objects).encoder
            match = re.fullmatch(r"dns:///([a-z0-9-]+):(\d+)", encoder)
            services = {s["metadata"]["name"]: s for s in of_kind(objects, "Service")}
            service = services.get(match[1]) if match else None
            if match is None or service is None:
                yield f"{workload} asks {encoder!r}, which is no service here (dns:///NAME:PORT)."
            elif int(match[2]) not in [port["port"] for port in service["spec"]["ports"]]:
                yield f"{workload} asks port {match[2]}, which service {match[1]} does not have."
            elif service["spec"].get("clusterIP") != "None":
                yield f"service {match[1]} must be headless: connections to a cluster IP all end at one pod."


@rule
def a_root_asks_every_replica_of_every_leaf(objects: list[Object]) -> Iterator[str]:
    leaves = {}
    for workload, container in containers(objects):
        if commands.is_gateway(container) and workload.kind == "StatefulSet":
            spec, name, port = workload.owner["spec"], workload.name, container_ports(container)["grpc"]
            service = {s["metadata"]["name"]: s for s in of_kind(objects, "Service")}.get(spec["serviceName"])
            if service is None or service["spec"].get("clusterIP") != "None":
                yield f"{workload}: its service {spec['serviceName']} must be there and headless, to name each replica."
            share = str(gateway_config(workload, container, objects).fan_out.share)
            leaves[share] = ",".join(f"{name}-{n}.{spec['serviceName']}:{port}" for n in range(spec["replicas"]))
    for workload, container in containers(objects):
        if commands.is_gateway(container) and workload.kind == "Deployment":
            asked = gateway_config(workload, container, objects).fan_out.leaves
            expected = [leaves.get(f"{number}/{len(leaves)}") for number in range(len(leaves))]
            if asked != expected:
                yield f"{workload} asks {asked}, leaves are {expected}."


@rule
def flags_exist(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        if commands.is_tfserving(container):
            yield from (f"{workload}: {fault}" for fault in commands.tfserving_faults(container))
        else:
            arguments, said = commands.parse_command(commands.command_of(container))
            if arguments is None:
                yield f"{workload}: {said}"


@rule
def configuration_is_read(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        if commands.is_tfserving(container):
            yield from _serving_configuration(workload, container, objects)
        elif commands.is_gateway(container):
            try:
                gateway_config(workload, container, objects)
            except (ConfigError, LookupError) as error:
                yield f"{workload}: {error}"
        else:
            yield from _pipeline_configuration(workload, container, objects)


def _serving_configuration(workload: Workload, container: Object, objects: list[Object]) -> Iterator[str]:
    flags = commands.tfserving_flags(container)
    read = {}
    for flag, message in (
        ("model_config_file", "ModelServerConfig"),
        ("batching_parameters_file", "BatchingParameters"),
        ("monitoring_config_file", "MonitoringConfig"),
    ):
        text = commands.mounted_file(workload, container, objects, flags.get(flag, ""))
        if text is None:
            yield f"{workload}: --{flag}={flags.get(flag)} is not there."
            return
        try:
            read[message] = commands.parse_proto(message, text)
        except text_format.ParseError as error:
            yield f"{workload}: --{flag} is no {message}: {error}"
            return
    models = read["ModelServerConfig"].model_config_list.config
    policies = [model.model_version_policy.WhichOneof("policy_choice") for model in models]
    if [model.name for model in models] != ["encoder"] or policies != ["all"]:
        yield f"{workload} must serve all versions of `encoder`."
    batching = read["BatchingParameters"]
    sizes = list(batching.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or sizes[-1:] != [batching.max_batch_size.value]:
        yield f"{workload}: allowed_batch_sizes must grow up to max_batch_size, got {sizes}."
    if batching.max_batch_size.value < MAX_BATCH:
        yield f"{workload}: a BatchSearch of {MAX_BATCH} images is more than max_batch_size."
    if not read["MonitoringConfig"].prometheus_config.enable:
        yield f"{workload} has no metrics."


def _pipeline_configuration(workload: Workload, container: Object, objects: list[Object]) -> Iterator[str]:
    arguments, said = commands.parse_command(commands.command_of(container))
    if arguments is None:
        yield f"{workload}: {said}"
        return
    text = commands.mounted_file(workload, container, objects, str(arguments.config))
    if text is None:
        yield f"{workload}: {arguments.config} is not there."
        return
    try:
        _with_file(text, lambda file: pipeline_config.load(str(file)))
    except pipeline_config.ConfigError as error:
        yield f"{workload}: {error}"


def gateway_config(workload: Workload, container: Object, objects: list[Object]) -> GatewayConfig:
    """Returns the options that a gateway's container would run with. Raises ConfigError, LookupError."""
    arguments, said = commands.parse_command(commands.command_of(container))
    if arguments is None:
        raise LookupError(said)
    flags = {name: value for name, value in vars(arguments).items() if name != "config"}
    text = commands.mounted_file(workload, container, objects, str(arguments.config))
    if text is None:
        raise LookupError(f"{arguments.config} is not there.")
    return _with_file(text, lambda file: GatewayConfig.load(file, flags))


def _with_file(text: str, read: Callable[[pathlib.Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "config.yaml"
        file.write_text(text)
        return read(file)


@rule
def gateways_can_write_what_they_take(objects: list[Object]) -> Iterator[str]:
    for workload, container in containers(objects):
        if not commands.is_gateway(container):
            continue
        config = gateway_config(workload, container, objects)
        mounts = [each for each in container["volumeMounts"] if each["mountPath"] == config.serving_root]
        read_only = [each.get("readOnly", False) for each in mounts]
        if read_only and read_only != [not config.takes_updates]:
            does = "takes" if config.takes_updates else "takes no"
            yield f"{workload} {does} updates, and its serving root is {'' if read_only[0] else 'not '}read-only."
        if config.takes_updates and not config.security.encrypts:
            yield f"{workload} takes tokens in the clear."


@rule
def files_are_mounted(objects: list[Object]) -> Iterator[str]:
    names = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for workload in workloads(objects):
        volumes = {volume["name"]: volume for volume in workload.spec.get("volumes", [])}
        used = set()
        for container in workload.containers:
            folders = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            for mount in container.get("volumeMounts", []):
                used.add(mount["name"])
                if mount["name"] not in volumes:
                    yield f"{workload} mounts {mount['name']}, which is no volume."
            probes = [argument for name in PROBES for argument in _exec(container, name)]
            for argument in [*commands.command_of(container)[1:], *probes]:
                path = argument.partition("=")[2]
                if path.startswith("/") and not any(path == f or path.startswith(f + "/") for f in folders):
                    yield f"{workload}: nothing is mounted where {argument} points to."
        for volume in volumes.values():
            if volume["name"] not in used:
                yield f"{workload}: volume {volume['name']} is not mounted."
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and ("PersistentVolumeClaim", claim) not in names:
                yield f"{workload}: there is no claim {claim}."
            config = volume.get("configMap", {}).get("name")
            if config and ("ConfigMap", config) not in names:
                yield f"{workload}: there is no ConfigMap {config}."
        account = workload.spec.get("serviceAccountName")
        if ("ServiceAccount", account) not in names:
            yield f"{workload}: there is no service account {account}."


def _exec(container: Object, name: str) -> list[str]:
    command: list[str] = container.get(name, {}).get("exec", {}).get("command", [])
    return command
