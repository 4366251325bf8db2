"""Compiles a pipeline for Kubeflow Pipelines.

  lookalike compile --config F.yaml --image registry.example/lookalike@sha256:... --output training.yaml
  lookalike compile --config F.yaml --pipeline reindex --image ... --output reindex.yaml

The file is what Kubeflow's user interface, its SDK, and `lookalike submit` and `schedule` take. See docs/kubeflow.md.
"""

import argparse
import pathlib
import sys

from pipeline.commands.run import FLAGS

HELP = "compile a pipeline for Kubeflow"
_FLAGS = {
    **FLAGS,
    "image": ("kubeflow.image", "image of every step"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--pipeline", choices=("training", "reindex"), default="training", help="(default: training)")
    parser.add_argument("--output", required=True, metavar="FILE", help="where the YAML goes")
    parser.add_argument("--config", metavar="FILE", help="YAML file of options")
    for flag, (option, text) in _FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"{text} [{option}]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="any option of the config file; repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 with the file written, 2 for a wrong option."""
    from pipeline import config as configuration

    given = {option: getattr(arguments, flag.replace("-", "_")) for flag, (option, _) in _FLAGS.items()}
    overrides = [f"{option}={value}" for option, value in given.items() if value is not None]
    try:
        config = configuration.load(arguments.config, [*overrides, *arguments.set])
        # Here and not above: importing TFX takes ten seconds, and a wrong option should be told at once.
        from pipeline.kubeflow_runner import compile_pipeline, to_yaml

        text = to_yaml(compile_pipeline(config, arguments.pipeline))
        pathlib.Path(arguments.output).write_text(text)
    except (configuration.ConfigError, OSError) as error:
        print(f"lookalike compile: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: the {arguments.pipeline} pipeline, to run in {config.kubeflow.image}")
    return 0
