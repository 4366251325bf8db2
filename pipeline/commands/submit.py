"""Runs a compiled pipeline on Kubeflow, or only uploads it.

  lookalike submit --file training.yaml
  lookalike submit --file training.yaml --parameter epochs=30 --parameter images=gs://bucket/photos
  lookalike submit --file training.yaml --upload-only

It is uploaded as a version named by its content: the same file is one version, however often it is submitted.
Where Kubeflow is: --host or KF_PIPELINES_ENDPOINT; neither, inside the cluster. LOOKALIKE_KFP_TOKEN holds a bearer
token, LOOKALIKE_KFP_NAMESPACE the namespace of a multi-user Kubeflow, LOOKALIKE_KFP_CA_FILE its certificate authority.
"""

import argparse
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.kubeflow_client import Compiled, RunOptions

HELP = "run a compiled pipeline on Kubeflow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    add_run_arguments(parser)
    parser.add_argument("--name", default="", help="of the run (default: the pipeline's and the version's)")
    parser.add_argument("--upload-only", action="store_true", help="upload the version, and start no run")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that tell how a run is started."""
    parser.add_argument("--file", required=True, metavar="FILE", help="what `lookalike compile` wrote")
    parser.add_argument("--host", default="", metavar="URL", help="of Kubeflow Pipelines")
    parser.add_argument("--experiment", default="lookalike", help="made where there is none (default: %(default)s)")
    parser.add_argument("--service-account", default="", help="that the pods run as (default: the cluster's)")
    parser.add_argument("--pipeline-root", default="", metavar="URL", help="of artifacts (default: as it was compiled)")
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE", help="of the pipeline; repeatable"
    )


def read_arguments(arguments: argparse.Namespace) -> "tuple[Compiled, RunOptions]":
    """Returns what is run and how; raises ConfigError or OSError."""
    from pipeline.kubeflow_client import RunOptions, read_compiled
    from pipeline.option_checks import require

    compiled = read_compiled(arguments.file)
    told = {}
    for text in arguments.parameter:
        name, equals, value = text.partition("=")
        require(bool(equals), f"a parameter must read NAME=VALUE, got {text!r}.")
        told[name] = value
    return compiled, RunOptions(
        experiment=arguments.experiment,
        service_account=arguments.service_account,
        pipeline_root=arguments.pipeline_root,
        parameters=compiled.values(told),
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 with the run started, 1 where Kubeflow refused, 2 for a wrong option."""
    from pipeline import kubeflow_client
    from pipeline.option_checks import ConfigError

    logging.getLogger("pipeline").setLevel(logging.INFO)
    try:
        compiled, options = read_arguments(arguments)
    except (ConfigError, OSError) as error:
        print(f"lookalike submit: {error}", file=sys.stderr)
        return 2
    try:
        client = kubeflow_client.connect(arguments.host)
        if arguments.upload_only:
            pipeline_id, version_id = kubeflow_client.upload(client, compiled)
            print(f"pipeline {pipeline_id}, version {version_id} ({compiled.version})")
        else:
            print(f"run {kubeflow_client.submit(client, compiled, options, arguments.name)}")
    except kubeflow_client.failures() as error:
        print(f"lookalike submit: {kubeflow_client.describe(error)}", file=sys.stderr)
        return 1
    return 0
