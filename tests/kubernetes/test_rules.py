"""The rules hold for everything that is applied, and each of them notices what breaks it."""

from collections.abc import Callable

import pytest

from tests.kubernetes.rendered import FOLDERS, Object, config_file, named, render, workload
from tests.kubernetes.rules import RULES

Break = Callable[[list[Object]], None]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_rules_hold(folder: str) -> None:
    objects = render(folder)
    assert [f"{name}: {fault}" for name, check in RULES.items() for fault in check(objects)] == []


def container(objects: list[Object], name: str) -> Object:
    first: Object = workload(objects, name).containers[0]
    return first


def argument(objects: list[Object], name: str, old: str, new: str | None) -> None:
    """Puts an argument in the place of the one that begins with `old`; None takes it away."""
    found = container(objects, name)["args"]
    (place,) = (i for i, each in enumerate(found) if each.startswith(old))
    found[place : place + 1] = [] if new is None else [new]


def config(objects: list[Object], name: str, file: str, old: str, new: str) -> None:
    text = config_file(objects, name, file)
    assert old in text
    named(objects, "ConfigMap", name)["data"][file] = text.replace(old, new)


BROKEN: list[tuple[str, str, Break, str]] = [
    (
        "everything_is_labelled",
        "overlays/local",
        lambda o: named(o, "Service", "gateway")["metadata"]["labels"].pop("app.kubernetes.io/component"),
        "Service gateway lacks ['component']",
    ),
    (
        "everything_is_labelled",
        "overlays/local",
        lambda o: workload(o, "reindex").pod["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
        "the pods of CronJob reindex lack ['part-of']",
    ),
    (
        "selectors_match",
        "overlays/local",
        lambda o: named(o, "Service", "gateway")["spec"]["selector"].update({"app.kubernetes.io/name": "gate"}),
        "Service gateway selects []",
    ),
    (
        "selectors_match",
        "overlays/local",
        lambda o: named(o, "Deployment", "gateway")["spec"]["selector"]["matchLabels"].update(version="1"),
        "does not select its own pods",
    ),
    (
        "selectors_match",
        "overlays/local",
        lambda o: [
            labels.update(version="1")
            for labels in (
                named(o, "Deployment", "gateway")["spec"]["selector"]["matchLabels"],
                workload(o, "gateway").pod["metadata"]["labels"],
            )
        ],
        "selects by",
    ),
    (
        "selectors_match",
        "overlays/local",
        lambda o: named(o, "NetworkPolicy", "gateway")["spec"]["egress"][0]["to"][0]["podSelector"].update(
            matchLabels={"app.kubernetes.io/name": "encoder"}
        ),
        "NetworkPolicy gateway selects nobody",
    ),
    (
        "selectors_match",
        "overlays/local",
        lambda o: named(o, "Deployment", "gateway")["spec"]["template"]["spec"]["topologySpreadConstraints"][0].update(
            labelSelector={}
        ),
        "spreads other pods",
    ),
    (
        "ports_are_named_and_exist",
        "overlays/local",
        lambda o: named(o, "Service", "tensorflow-serving")["spec"]["ports"][0].update(targetPort="rpc"),
        "has no port 'rpc'",
    ),
    (
        "ports_are_named_and_exist",
        "overlays/staging",
        lambda o: named(o, "PodMonitor", "gateway")["spec"]["podMetricsEndpoints"][0].update(port="prometheus"),
        "has no port 'prometheus'",
    ),
    (
        "ports_are_named_and_exist",
        "overlays/local",
        lambda o: named(o, "NetworkPolicy", "gateway")["spec"]["egress"][0]["ports"][0].update(port="http2"),
        "has no port 'http2'",
    ),
    (
        "probes_hit_what_is_there",
        "overlays/local",
        lambda o: container(o, "gateway")["readinessProbe"]["grpc"].update(port=9464),
        "asks port 9464, gRPC is on 50051",
    ),
    (
        "probes_hit_what_is_there",
        "overlays/local",
        lambda o: container(o, "gateway")["readinessProbe"]["grpc"].update(service="RetrievalService"),
        "asks for RetrievalService",
    ),
    (
        "probes_hit_what_is_there",
        "overlays/local",
        lambda o: container(o, "tensorflow-serving")["startupProbe"]["httpGet"].update(path="/v1/models/default"),
        "which is no model's status",
    ),
    (
        "probes_hit_what_is_there",
        "overlays/local",
        lambda o: container(o, "tensorflow-serving").pop("livenessProbe"),
        "livenessProbe is missing",
    ),
    (
        "probes_hit_what_is_there",
        "tests/mtls",
        lambda o: container(o, "gateway")["readinessProbe"]["exec"]["command"].append("--verbosity=1"),
        "--verbosity=1",
    ),
    (
        "probes_hit_what_is_there",
        "tests/mtls",
        lambda o: container(o, "gateway")["readinessProbe"].update(grpc={"port": 50051}),
        "must do one thing",
    ),
    (
        "listening_ports_are_those_told",
        "overlays/local",
        lambda o: config(o, "gateway", "gateway.yaml", "metrics_port: 9464", "metrics_port: 9090"),
        "listens on 50051 and 9090",
    ),
    (
        "listening_ports_are_those_told",
        "overlays/local",
        lambda o: argument(o, "tensorflow-serving", "--rest_api_port", None),
        "listens on 8500 and None",
    ),
    (
        "listening_ports_are_those_told",
        "overlays/local",
        lambda o: config(o, "gateway", "gateway.yaml", "host: 0.0.0.0\nport", "host: 127.0.0.1\nport"),
        "where nobody reaches it",
    ),
    (
        "names_of_services_exist",
        "overlays/local",
        lambda o: config(o, "gateway", "gateway.yaml", "///tensorflow-serving:8500", "///encoder:8500"),
        "which is no service here",
    ),
    (
        "names_of_services_exist",
        "overlays/local",
        lambda o: named(o, "Service", "tensorflow-serving")["spec"].pop("clusterIP"),
        "must be headless",
    ),
    (
        "flags_exist",
        "overlays/local",
        lambda o: argument(o, "tensorflow-serving", "--enable_profiler", "--enable_profiling=false"),
        "TF Serving 2.20.0 has no flag --enable_profiling",
    ),
    (
        "flags_exist",
        "overlays/local",
        lambda o: [
            container(o, "tensorflow-serving").update(image="tensorflow/serving:2.16.1"),
            container(o, "tensorflow-serving")["args"].append("--enable_serialization_as_tensor_content=true"),
        ],
        "TF Serving 2.16.1 has no flag --enable_serialization_as_tensor_content",
    ),
    (
        "flags_exist",
        "overlays/local",
        lambda o: argument(o, "tensorflow-serving", "--enable_batching", "--enable_batching=yes"),
        "true or false",
    ),
    (
        "flags_exist",
        "overlays/local",
        lambda o: container(o, "gateway")["args"].append("--drain-secs=3"),
        "--drain-secs=3",
    ),
    (
        "flags_exist",
        "overlays/local",
        lambda o: argument(o, "reindex", "reindex", "index"),
        "there is no command lookalike index",
    ),
    (
        "configuration_is_read",
        "overlays/local",
        lambda o: config(o, "reindex", "reindex.yaml", "  images:", "  pictures:"),
        "unknown option ingest.pictures",
    ),
    (
        "configuration_is_read",
        "overlays/local",
        lambda o: config(o, "tensorflow-serving", "models.config", "model_version_policy { all {} }", ""),
        "must serve all versions",
    ),
    (
        "configuration_is_read",
        "overlays/local",
        lambda o: config(o, "tensorflow-serving", "models.config", "base_path", "base_folder"),
        "is no ModelServerConfig",
    ),
    (
        "configuration_is_read",
        "overlays/local",
        lambda o: config(o, "tensorflow-serving", "batching.config", "num_batch_threads { value: 2 }", "threads: 2"),
        "is no BatchingParameters",
    ),
    (
        "configuration_is_read",
        "overlays/local",
        lambda o: config(o, "tensorflow-serving", "batching.config", "allowed_batch_sizes: 256\n", ""),
        "must grow up to max_batch_size",
    ),
    (
        "configuration_is_read",
        "overlays/local",
        lambda o: config(o, "tensorflow-serving", "monitoring.config", "enable: true", "enable: maybe"),
        "is no MonitoringConfig",
    ),
    (
        "configuration_is_read",
        "overlays/local",
        lambda o: config(o, "gateway", "gateway.yaml", "drain_seconds", "drain_secs"),
        "unknown option drain_secs",
    ),
    (
        "gateways_can_write_what_they_take",
        "tests/updates",
        lambda o: [
            mount.update(readOnly=True)
            for mount in container(o, "gateway")["volumeMounts"]
            if mount["mountPath"] == "/serving-root"
        ],
        "takes updates, and its serving root is read-only",
    ),
    (
        "gateways_can_write_what_they_take",
        "tests/updates",
        lambda o: argument(o, "gateway", "--admin-tokens", None),
        "takes no updates, and its serving root is not read-only",
    ),
    (
        "gateways_can_write_what_they_take",
        "tests/updates",
        lambda o: [argument(o, "gateway", flag, None) for flag in ("--tls-cert", "--tls-key", "--client-ca")],
        "tokens in the clear",
    ),
    (
        "a_root_asks_every_replica_of_every_leaf",
        "tests/fan-out",
        lambda o: argument(o, "gateway", "leaf-0-0.leaf-0:50051", "leaf-0-0.leaf-0:50051"),
        "leaves are ['leaf-0-0.leaf-0:50051,leaf-0-1.leaf-0:50051',",
    ),
    (
        "a_root_asks_every_replica_of_every_leaf",
        "tests/fan-out",
        lambda o: argument(o, "leaf-1", "--shard-share", "--shard-share=0/2"),
        "leaves are [",
    ),
    (
        "a_root_asks_every_replica_of_every_leaf",
        "tests/fan-out",
        lambda o: named(o, "Service", "leaf-1")["spec"].pop("clusterIP"),
        "its service leaf-1 must be there and headless",
    ),
    (
        "everybody_has_a_budget",
        "tests/fan-out",
        lambda o: o.remove(named(o, "PodDisruptionBudget", "leaf-0")),
        "StatefulSet leaf-0 has 0 disruption budgets",
    ),
    (
        "probes_hit_what_is_there",
        "tests/fan-out",
        lambda o: container(o, "leaf-0")["readinessProbe"]["grpc"].update(service="lookalike.retrieval.v1"),
        "which leaf-0 does not know",
    ),
    (
        "rollouts_take_nothing_away",
        "tests/fan-out",
        lambda o: config(o, "leaf-0", "gateway.yaml", "drain_seconds: 20.0", "drain_seconds: 40.0"),
        "StatefulSet leaf-0 is killed after 50 s, while it drains",
    ),
    (
        "files_are_mounted",
        "overlays/local",
        lambda o: container(o, "gateway")["volumeMounts"].pop(0),
        "nothing is mounted where --config=/etc/lookalike/gateway.yaml points to",
    ),
    (
        "files_are_mounted",
        "overlays/local",
        lambda o: named(o, "PersistentVolumeClaim", "images")["metadata"].update(name="pictures"),
        "there is no claim images",
    ),
    (
        "files_are_mounted",
        "overlays/local",
        lambda o: workload(o, "gateway").spec.update(serviceAccountName="default"),
        "no service account default",
    ),
    (
        "everybody_has_a_policy",
        "overlays/local",
        lambda o: o.remove(named(o, "NetworkPolicy", "reindex")),
        "CronJob reindex has no NetworkPolicy",
    ),
    (
        "everybody_has_a_policy",
        "overlays/local",
        lambda o: o.remove(named(o, "NetworkPolicy", "default")),
        "no policy that denies",
    ),
    (
        "everybody_has_a_budget",
        "overlays/local",
        lambda o: o.remove(named(o, "PodDisruptionBudget", "gateway")),
        "Deployment gateway has 0",
    ),
    (
        "everybody_has_limits",
        "overlays/local",
        lambda o: container(o, "reindex")["resources"]["limits"].update(memory="8Gi"),
        "CronJob reindex must request",
    ),
    (
        "everybody_has_limits",
        "overlays/local",
        lambda o: workload(o, "gateway").spec["volumes"][-1].update(emptyDir={}),
        "has no limit",
    ),
    (
        "everybody_is_restricted",
        "overlays/local",
        lambda o: workload(o, "tensorflow-serving").spec["securityContext"].pop("runAsNonRoot"),
        "may run as root",
    ),
    (
        "everybody_is_restricted",
        "overlays/local",
        lambda o: container(o, "gateway")["securityContext"].update(readOnlyRootFilesystem=False),
        "can write into its image",
    ),
    (
        "everybody_is_restricted",
        "overlays/local",
        lambda o: container(o, "gateway")["securityContext"]["capabilities"].update(add=["NET_RAW"]),
        "can gain privileges",
    ),
    (
        "rollouts_take_nothing_away",
        "overlays/local",
        lambda o: named(o, "Deployment", "gateway")["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        "before its successor is there",
    ),
    (
        "rollouts_take_nothing_away",
        "overlays/local",
        lambda o: config(o, "gateway", "gateway.yaml", "drain_seconds: 20.0", "drain_seconds: 4.0"),
        "which its probe needs to notice",
    ),
    (
        "rollouts_take_nothing_away",
        "overlays/local",
        lambda o: config(o, "gateway", "gateway.yaml", "grace_seconds: 20.0", "grace_seconds: 40.0"),
        "is killed after 50 s",
    ),
    (
        "rollouts_take_nothing_away",
        "overlays/local",
        lambda o: container(o, "tensorflow-serving")["lifecycle"]["preStop"]["sleep"].update(seconds=90),
        "a pause of 90 s",
    ),
    (
        "images_are_pinned",
        "overlays/local",
        lambda o: container(o, "tensorflow-serving").update(image="tensorflow/serving:latest"),
        "names no version",
    ),
    (
        "nothing_dangerous_is_on",
        "overlays/local",
        lambda o: argument(o, "tensorflow-serving", "--enable_profiler", None),
        "profile it",
    ),
    (
        "nothing_dangerous_is_on",
        "overlays/local",
        lambda o: named(o, "Service", "tensorflow-serving")["spec"].update(type="LoadBalancer"),
        "open to the outside",
    ),
    (
        "the_reindex_runs_alone",
        "overlays/local",
        lambda o: named(o, "CronJob", "reindex")["spec"].update(concurrencyPolicy="Allow"),
        "may run twice",
    ),
    (
        "the_reindex_runs_alone",
        "overlays/local",
        lambda o: named(o, "CronJob", "reindex")["spec"].pop("timeZone"),
        "lacks ['timeZone']",
    ),
    (
        "replicas_have_one_master",
        "overlays/production",
        lambda o: named(o, "Deployment", "gateway")["spec"].update(replicas=3),
        "which the autoscaler decides",
    ),
]


@pytest.mark.parametrize(("name", "folder", "breaking", "said"), BROKEN)
def test_what_breaks_a_rule_is_noticed(name: str, folder: str, breaking: Break, said: str) -> None:
    objects = render(folder)
    breaking(objects)
    faults = RULES[name](objects)
    assert any(said in fault for fault in faults), faults


def test_each_rule_has_been_broken() -> None:
    assert {name for name, _, _, _ in BROKEN} == set(RULES)
