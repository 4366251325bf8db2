"""Hands compiled pipelines to Kubeflow Pipelines: uploads, runs and schedules them, and does nothing twice."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pipeline.option_checks import ConfigError, require

# The first is the KFP SDK's own.
HOST, TOKEN, NAMESPACE, CA_FILE = (
    "KF_PIPELINES_ENDPOINT",
    "LOOKALIKE_KFP_TOKEN",
    "LOOKALIKE_KFP_NAMESPACE",
    "LOOKALIKE_KFP_CA_FILE",
)
_TYPES = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}
_DESCRIPTOR = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every \S+)")
_PAGE = 100

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: its file, the name in it, and its parameters' types by name. version: by its content."""

    path: pathlib.Path
    name: str
    version: str
    parameters: Mapping[str, str]

    def values(self, told: Mapping[str, str]) -> dict[str, Any]:
        """Returns the parameters in `told`, each as the type that the pipeline declares; raises ConfigError."""
        values: dict[str, Any] = {}
        for name, text in told.items():
            require(name in self.parameters, f"no parameter {name}; there are {', '.join(sorted(self.parameters))}.")
            kind = _TYPES[self.parameters[name]]
            try:
                values[name] = kind(text)
            except ValueError as error:
                raise ConfigError(f"parameter {name} must be of type {kind.__name__}, got {text!r}.") from error
        return values


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is started. experiment: made where there is none. service_account: "" for the cluster's default.

    pipeline_root: where artifacts are kept, a URL; "" for the one that was compiled in.
    """

    experiment: str = "lookalike"
    service_account: str = ""
    pipeline_root: str = ""
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_compiled(path: str) -> Compiled:
    """Returns what `lookalike compile` wrote to `path`; raises ConfigError where it is something else."""
    file = pathlib.Path(path)
    content = file.read_bytes()
    try:
        spec = next(iter(yaml.safe_load_all(content)))
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        parameters = {name: value["parameterType"] for name, value in declared.items()}
        name = spec["pipelineInfo"]["name"]
    except (yaml.YAMLError, StopIteration, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} must be what `lookalike compile` writes.") from error
    return Compiled(file, name, hashlib.sha256(content).hexdigest()[:12], parameters)


def connect(host: str = "") -> Any:
    """Returns a kfp.Client. host: such as `https://kubeflow.example/pipeline`; by default as the environment says.

    Inside the cluster neither host nor token is needed: the SDK finds the service and its projected token.
    """
    import kfp

    with warnings.catch_warnings(), _on_stderr():
        # It says that it needs Kubeflow Pipelines 2.0 or later.
        warnings.simplefilter("ignore", FutureWarning)
        return kfp.Client(
            host=host or None,
            existing_token=os.environ.get(TOKEN),
            namespace=os.environ.get(NAMESPACE, "kubeflow"),
            ssl_ca_cert=os.environ.get(CA_FILE),
        )


def upload(client: Any, compiled: Compiled) -> tuple[str, str]:
    """Returns (pipeline id, version id) of the pipeline on the server, uploaded where it is not there yet."""
    with _on_stderr():
        pipeline_id = client.get_pipeline_id(compiled.name)
        if pipeline_id is None:
            pipeline_id = client.upload_pipeline(str(compiled.path), pipeline_name=compiled.name).pipeline_id
        for version in _all(lambda **page: client.list_pipeline_versions(pipeline_id, **page), "pipeline_versions"):
            if version.display_name == compiled.version:
                return pipeline_id, version.pipeline_version_id
        uploaded = client.upload_pipeline_version(str(compiled.path), compiled.version, pipeline_id=pipeline_id)
    _log.info("uploaded version %s of %s", compiled.version, compiled.name)
    return pipeline_id, uploaded.pipeline_version_id


def submit(client: Any, compiled: Compiled, options: RunOptions, name: str = "") -> str:
    """Starts a run of the pipeline, uploaded where it is not there yet; returns the run's id."""
    pipeline_id, version_id = upload(client, compiled)
    with _on_stderr():
        experiment = client.create_experiment(options.experiment)
        run = client.run_pipeline(
            experiment_id=experiment.experiment_id,
            job_name=name or f"{compiled.name} {compiled.version}",
            params=dict(options.parameters),
            pipeline_id=pipeline_id,
            version_id=version_id,
            pipeline_root=options.pipeline_root or None,
            service_account=options.service_account or None,
        )
    return run.run_id


def schedule(client: Any, compiled: Compiled, options: RunOptions, name: str, cron: str) -> str:
    """Sees to it that exactly one recurring run `name` is there, with these options; returns its id.

    At most one of its runs at a time, and a run that was missed is not made up for: the next one sees all that is new.
    One that differs is replaced, the new one first. cron: Kubeflow's, see check_cron. Raises ConfigError.
    """
    check_cron(cron)
    pipeline_id, version_id = upload(client, compiled)
    with _on_stderr():
        experiment_id = client.create_experiment(options.experiment).experiment_id
        pages = _all(lambda **page: client.list_recurring_runs(experiment_id=experiment_id, **page), "recurring_runs")
        present = [job for job in pages if job.display_name == name]
        same = [job for job in present if _describes(job, version_id, options, cron)]
        if same:
            kept = same[0].recurring_run_id
        else:
            kept = client.create_recurring_run(
                experiment_id=experiment_id,
                job_name=name,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=dict(options.parameters),
                pipeline_id=pipeline_id,
                version_id=version_id,
                pipeline_root=options.pipeline_root or None,
                service_account=options.service_account or None,
            ).recurring_run_id
        for job in present:
            if job.recurring_run_id != kept:
                client.delete_recurring_run(job.recurring_run_id)
                _log.info("deleted the recurring run %s, which %s replaces", job.recurring_run_id, kept)
    return kept


def check_cron(cron: str) -> None:
    """Raises ConfigError unless `cron` has Kubeflow's six fields, seconds first, or is such as `@daily`."""
    fields = len(cron.split())
    if fields == 5:
        raise ConfigError(f"cron has six fields on Kubeflow, the first is seconds: did you mean '0 {cron}'?")
    known = fields == 6 or bool(_DESCRIPTOR.fullmatch(cron))
    require(known, f"cron must have six fields, the first seconds, or be such as @daily, got {cron!r}.")


def _describes(job: Any, version_id: str, options: RunOptions, cron: str) -> bool:
    """Returns whether a recurring run is the one that these options would make, and is enabled."""
    schedule, runtime = job.trigger.cron_schedule if job.trigger else None, job.runtime_config
    told = (
        job.pipeline_version_reference.pipeline_version_id if job.pipeline_version_reference else None,
        schedule.cron if schedule else None,
        json.dumps((runtime.parameters if runtime else None) or {}, sort_keys=True),
        (runtime.pipeline_root if runtime else None) or "",
        job.service_account or "",
        int(job.max_concurrency or 0),
        bool(job.no_catchup),
        job.mode,
    )
    parameters = json.dumps(dict(options.parameters), sort_keys=True)
    return told == (
        *(version_id, cron, parameters, options.pipeline_root, options.service_account),
        *(1, True, "ENABLE"),
    )


def _all(list_page: Any, field: str) -> Iterator[Any]:
    token = ""
    while True:
        page = list_page(page_token=token, page_size=_PAGE)
        yield from getattr(page, field) or ()
        token = page.next_page_token
        if not token:
            return


def failures() -> tuple[type[Exception], ...]:
    """Returns the errors by which Kubeflow refuses, or can't be reached."""
    import kfp_server_api
    import urllib3

    return kfp_server_api.ApiException, urllib3.exceptions.HTTPError, TimeoutError


def describe(error: Exception) -> str:
    """Returns one line of what a failure means: the server's own message, where it sent one."""
    body = getattr(error, "body", None)
    try:
        told = json.loads(body)["message"] if body else ""
    except (ValueError, KeyError, TypeError):
        told = body
    code, reason = getattr(error, "status", None), getattr(error, "reason", "")
    status = f"Kubeflow answered {code} {reason}" if code else ""
    return ": ".join(part for part in (status, told or str(error).strip()) if part)


@contextlib.contextmanager
def _on_stderr() -> Iterator[None]:
    """Sends what the SDK prints (links into its user interface) to stderr: stdout is for the answer."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
