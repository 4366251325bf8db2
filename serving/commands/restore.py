"""Makes a serving root of a backup.

  lookalike restore --from /backups/serving --serving-root runs/serving

Every release is opened and checked as a gateway does it, and CURRENT is written last; until then there is no serving
root. It may be stopped at any time and run again. Exit codes: 0 done; 1 refused, or an older release was left out, the
answer names it; 2 it can't be done now (wrong flags, a store away): trying again may help.
"""

import argparse
import pathlib
import sys

from serving.commands.backup import report

HELP = "make a serving root of a backup"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--from", required=True, dest="backup", metavar="PLACE", help="where the backup lies")
    parser.add_argument("--serving-root", required=True, help="folder, gs:// or s3:// that has no CURRENT yet")
    parser.add_argument("--cache", type=pathlib.Path, help="where copies from an object store are kept [nowhere]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Restores the backup; returns the exit code."""
    from serving.release.backup import CopyRefused, restore
    from serving.storage import open_store

    try:
        copied = restore(open_store(arguments.backup), open_store(arguments.serving_root), cache=arguments.cache)
    except CopyRefused as error:
        print(f"lookalike restore: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"lookalike restore: {error}", file=sys.stderr)
        return 2
    return report(copied, "restored", arguments)
