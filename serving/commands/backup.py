"""Copies a serving root to another place, while it is served and published to.

  lookalike backup --serving-root runs/serving --to /backups/serving
  lookalike backup --serving-root gs://images/serving --to s3://backups/serving

Everything is held against its digest. What the backup holds already is not copied again, and what the serving root has
pruned or purged since the last time is deleted from it: for older states keep backups in several places in turn. The
cached embeddings are part of it. `lookalike restore` makes it a serving root again. Exit codes: 0 done; 1 something
could not be copied as it should be, the answer names it; 2 it can't be done now (wrong flags, a store away, another
publishes): trying again may help.
"""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from serving.commands.problems import holder, print_json

if TYPE_CHECKING:
    from serving.release.backup import Copied

HELP = "copy a serving root to another place"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--serving-root", required=True, help="folder, gs:// or s3:// that holds CURRENT")
    parser.add_argument("--to", required=True, metavar="PLACE", help="folder, gs:// or s3:// where the backup lies")
    parser.add_argument("--wait-seconds", type=float, default=0.0, help="wait so long for another publisher [0]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Makes the backup; returns the exit code."""
    from serving.release.backup import CopyRefused, back_up
    from serving.release.lease import LeaseHeld, LeaseLost
    from serving.storage import open_store

    try:
        copied = back_up(
            open_store(arguments.serving_root),
            open_store(arguments.to),
            holder=holder("backup"),
            wait_seconds=arguments.wait_seconds,
        )
    except CopyRefused as error:
        print(f"lookalike backup: {error}", file=sys.stderr)
        return 1
    except (LeaseHeld, LeaseLost, OSError, ValueError) as error:
        print(f"lookalike backup: {error}", file=sys.stderr)
        return 2
    return report(copied, "backed up", arguments)


def report(copied: "Copied", verb: str, arguments: argparse.Namespace) -> int:
    """Prints what was copied; returns the exit code."""
    if arguments.json:
        print_json(dataclasses.asdict(copied))
    else:
        print(f"{verb} {copied.release_id}: {copied.files} files, {copied.size / 1e6:.1f} MB copied")
        if copied.deleted:
            print(f"deleted {copied.deleted} files that the serving root no longer holds")
        for problem in copied.problems:
            print(f"not copied: {problem}")
    return int(bool(copied.problems))
