"""Runs a compiled pipeline on Kubeflow again and again.

  lookalike schedule --file training.yaml --name retrain --cron '0 0 3 * * 0'     Sundays at 3, in the cluster's zone
  lookalike schedule --file reindex.yaml --name reindex --cron '0 */30 * * * *'   every half hour

Kubeflow's cron has six fields, the first is seconds. At most one run at a time; a run that was missed is not made up
for. There is one schedule of a name: told again it is left as it is, told otherwise it is replaced. Where Kubeflow is,
and how it is spoken to: as for `lookalike submit`.
"""

import argparse
import logging
import sys

from pipeline.commands.submit import add_run_arguments, read_arguments

HELP = "run a compiled pipeline on Kubeflow by a cron"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    add_run_arguments(parser)
    parser.add_argument("--name", required=True, help="of the schedule")
    parser.add_argument("--cron", required=True, help="six fields, seconds first; or such as @daily")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 with the schedule there, 1 where Kubeflow refused, 2 for a wrong option."""
    from pipeline import kubeflow_client
    from pipeline.option_checks import ConfigError

    logging.getLogger("pipeline").setLevel(logging.INFO)
    try:
        kubeflow_client.check_cron(arguments.cron)
        compiled, options = read_arguments(arguments)
    except (ConfigError, OSError) as error:
        print(f"lookalike schedule: {error}", file=sys.stderr)
        return 2
    try:
        client = kubeflow_client.connect(arguments.host)
        kept = kubeflow_client.schedule(client, compiled, options, arguments.name, arguments.cron)
    except kubeflow_client.failures() as error:
        print(f"lookalike schedule: {kubeflow_client.describe(error)}", file=sys.stderr)
        return 1
    print(f"recurring run {kept}")
    return 0
