"""The actions of `lookalike releases` that delete: prune, purge and purges."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from serving.commands.problems import Problem, holder, print_json, utc

if TYPE_CHECKING:
    from serving.release.purge import Pending
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
    purge = add(
        "purge",
        _purge,
        "erase the bytes of items that were deleted with purge",
        "\n\nFrom old releases (which are deleted), the journal, contents, cached embeddings and thumbnails, as soon\n"
        "as the served release is without them; the next reindex publishes such a one, and purges at its end.\n"
        "Exit code 1: something is left, and the answer says what it waits for.",
    )
    for action in (prune, purge):
        action.add_argument("--wait-seconds", type=float, default=0.0, help="wait so long for another publisher [0]")
    add("purges", _purges, "list what was asked to be erased, and what is")


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


def _purge(arguments: argparse.Namespace, store: "Store") -> int:
    from serving.release.purge import list_purges, purge

    record = purge(store, holder=holder("releases purge"), wait_seconds=arguments.wait_seconds)
    pending = list_purges(store).pending
    if arguments.json:
        print_json(
            {
                "purged": None if record is None else json.loads(record.to_json()),
                "pending": [dataclasses.asdict(item) for item in pending],
            }
        )
        return int(bool(pending))
    if record is not None:
        erased = (
            f"{len(record.releases)} releases and {len(record.encoders)} encoders deleted, {record.segments} segments "
            f"rewritten, {record.contents} contents and {record.embeddings} cached embeddings deleted"
        )
        print(f"purge {record.purge_id} of {len(record.items)} items: {erased}")
    _print_pending(pending)
    if record is None and not pending:
        print("nothing to purge")
    return int(bool(pending))


def _purges(arguments: argparse.Namespace, store: "Store") -> int:
    from serving.release.purge import list_purges

    purges = list_purges(store)
    if arguments.json:
        print_json(
            {
                "pending": [dataclasses.asdict(item) for item in purges.pending],
                "done": [json.loads(record.to_json()) for record in purges.done],
            }
        )
        return 0
    _print_pending(purges.pending)
    for record in purges.done:
        names = ", ".join(sorted(record.items))
        print(f"done     {utc(record.done or 0)}  asked {utc(record.asked)}  {names}")
    if not purges.pending and not purges.done:
        print("no purge was ever asked for")
    return 0


def _print_pending(pending: "Sequence[Pending]") -> None:
    for item in pending:
        print(f"pending  asked {utc(item.asked)}  {item.item_id}: {item.waits}")
