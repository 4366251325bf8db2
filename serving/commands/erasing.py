"""The actions of `lookalike releases` that delete: prune, purge and purges."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serving.commands.problems import Problem, holder, print_json

if TYPE_CHECKING:
    from serving.storage import Store

# Long enough for every gateway to have taken up a new release, and for a publisher that died to be started again.
_GRACE_SECONDS = 3600.0
# As serving.release.retention has it, which takes a while to import.
_RUN_GRACE_SECONDS = 24 * 3600.0


def add_actions(add: Callable[..., Any]) -> None:
    """Adds the actions by `add(name, act, text, more)`, which returns their parser."""
    prune = add(
        "prune",
        _prune,
        "delete old releases, and what no release needs any more",
        "\n\nNever the served release, nor an encoder that a kept release names, nor anything younger than the\n"
        "grace period. Segments of the journal go when every kept release has passed them, contents and\n"
        "cached embeddings when nothing names them any more.",
    )
    prune.add_argument("--keep", type=int, default=3, help="how many of the newest releases stay [3]")
    prune.add_argument(
        "--grace-seconds", type=float, default=_GRACE_SECONDS, help=f"what is younger stays [{_GRACE_SECONDS:.0f}]"
    )
    prune.add_argument(
        "--run-grace-seconds",
        type=float,
        default=_RUN_GRACE_SECONDS,
        help=f"what is younger stays of what a run may need that isn't published yet [{_RUN_GRACE_SECONDS:.0f}]",
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    prune.add_argument("--wait-seconds", type=float, default=0.0, help="wait so long for another publisher [0]")


def _prune(arguments: argparse.Namespace, store: "Store") -> int:
    from serving.release import layout
    from serving.release.retention import prune

    if not store.folders(layout.RELEASES):
        raise Problem(f"{store.uri} holds no release yet.", 1)
    pruned = prune(
        store,
        keep=arguments.keep,
        grace_seconds=arguments.grace_seconds,
        run_grace_seconds=arguments.run_grace_seconds,
        holder=holder("releases prune"),
        wait_seconds=arguments.wait_seconds,
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        print_json({**dataclasses.asdict(pruned), "dry_run": arguments.dry_run})
        return 0
    verb = "would delete" if arguments.dry_run else "deleted"
    releases = tuple(f"{layout.RELEASES}/{name}" for name in pruned.releases)
    for name in (*releases, *pruned.encoders, *pruned.caches):
        print(f"{verb} {name}")
    # Of these there may be many thousands.
    counts = {
        "segments of the journal": len(pruned.segments),
        "contents": len(pruned.contents),
        "cached embeddings": pruned.embeddings,
    }
    for name, count in counts.items():
        if count:
            print(f"{verb} {count} {name}")
    if not any((*releases, *pruned.encoders, *pruned.caches, *counts.values())):
        print("nothing to delete")
    return 0
