"""The `lookalike` command: finds every subcommand, and says where those live that are not at home here."""

import argparse
import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from serving.gateway import logs

GROUP = "lookalike.commands"
# The folder that our set-up gives each environment. The client is at home in both.
FOLDERS = {"pipeline": ".venv/pipeline", "serving": ".venv/serving"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="lookalike",
        description="From a folder of images to a running service that answers: which images look like this one?",
    )
    parser.add_argument("--verbose", action="store_true", help="log every step")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        _add(commands, entry)
    chosen, unknown = parser.parse_known_args(arguments)
    # Flags of a command that lives elsewhere are not ours to judge.
    if unknown and chosen.run is not _elsewhere:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if not chosen.verbose:
        # Of TensorFlow errors alone, not which processor it found; and Google's client libraries say at each of some
        # twenty imports that Python 3.10 is old. Among all that nobody finds what the command has to say.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")
    logging.basicConfig(
        level=logging.INFO if chosen.verbose else logging.WARNING,
        format=logs.TEXT_FORMAT,
    )
    try:
        return int(chosen.run(chosen))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has left (`lookalike ... | head`): nothing to complain about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _add(commands: Any, entry: importlib.metadata.EntryPoint) -> None:
    extra = entry.extras[0]
    if extra in FOLDERS and extra != _environment():
        where = f"{FOLDERS[extra]}/bin/lookalike {entry.name}"
        command = commands.add_parser(entry.name, help=f"(in the {extra} environment: {where})", add_help=False)
        command.add_argument("rest", nargs="*")
        command.set_defaults(run=_elsewhere, name=entry.name, extra=extra, where=where)
        return
    module = entry.load()
    command = commands.add_parser(
        entry.name,
        # `--k 3` must not be taken for `--key 3`, nor a flag mean something else when a longer one is added.
        allow_abbrev=False,
        help=module.HELP,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command)
    command.set_defaults(run=module.run)


def _environment() -> str:
    # TFX is what tells the two apart: nothing else that serving holds is missing from the pipeline's environment.
    return "pipeline" if importlib.util.find_spec("tfx") else "serving"


def _elsewhere(chosen: argparse.Namespace) -> int:
    print(f"lookalike {chosen.name} is at home in the {chosen.extra} environment: {chosen.where}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
