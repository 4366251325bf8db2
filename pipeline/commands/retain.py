"""Deletes what is no longer needed, by the policy in the config: old releases, old runs, and all that only they need.

  lookalike retain --config runs/config.json
  lookalike retain --root runs --serving-root runs/serving --dry-run
  lookalike retain --set retention.releases=5 --set retention.run_days=30

Of the serving root it is `lookalike releases prune`; of the pipeline's root it deletes runs, their entries in TFX's
metadata and their artifacts, but for those that a kept run took from the cache, and the runs that kept releases came
from. Not while a run is under way. Exit codes: 0 done; 1 it can't be done now; 2 a wrong option.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import sys
import time

from pipeline.commands.run import FLAGS

HELP = "delete old releases and runs, by the policy in the config"
_FLAGS = {flag: FLAGS[flag] for flag in ("root", "serving-root")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file of options")
    for flag, (option, text) in _FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"{text} [{option}]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="any option of the config file; repeatable"
    )
    parser.add_argument("--wait-seconds", type=float, default=0.0, help="wait so long for a publisher [0]")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Applies the policy; returns the exit code."""
    from pipeline import config as configuration
    from pipeline.run_retention import UnknownMetadata, delete_old_runs
    from serving.release import layout
    from serving.release.lease import LeaseHeld, LeaseLost
    from serving.release.retention import list_releases, prune
    from serving.storage import open_store

    given = {option: getattr(arguments, flag.replace("-", "_")) for flag, (option, _) in _FLAGS.items()}
    overrides = [f"{option}={value}" for option, value in given.items() if value is not None]
    try:
        config = configuration.load(arguments.config, [*overrides, *arguments.set])
    except (configuration.ConfigError, OSError) as error:
        print(f"lookalike retain: {error}", file=sys.stderr)
        return 2
    policy = config.retention
    store = open_store(config.serving_root)
    try:
        pruned = None
        releases = store.folders(layout.RELEASES)
        if not releases and not pathlib.Path(config.root).is_dir():
            text = f"there is nothing to keep: no releases in {config.serving_root}, and no folder {config.root}."
            print(f"lookalike retain: {text}", file=sys.stderr)
            return 2
        if releases:
            pruned = prune(
                store,
                keep=policy.releases,
                grace_seconds=policy.grace_seconds,
                run_grace_seconds=policy.run_hours * 3600,
                holder=f"lookalike retain, process {os.getpid()} on {socket.gethostname()}",
                wait_seconds=arguments.wait_seconds,
                dry_run=arguments.dry_run,
            )
        gone = set(pruned.releases) if pruned else set()
        retained = delete_old_runs(
            pathlib.Path(config.root),
            runs=policy.runs,
            bar=time.time() - policy.run_days * 86_400,
            kept_releases={release.release_id for release in list_releases(store)} - gone,
            dry_run=arguments.dry_run,
        )
    except (LeaseHeld, LeaseLost, UnknownMetadata, OSError) as error:
        print(f"lookalike retain: {error}", file=sys.stderr)
        return 1
    told = {
        "dry_run": arguments.dry_run,
        "serving_root": dataclasses.asdict(pruned) if pruned else None,
        "root": dataclasses.asdict(retained),
    }
    if arguments.json:
        print(json.dumps(told, indent=1, sort_keys=True))
        return 0
    verb = "would delete" if arguments.dry_run else "deleted"
    if pruned:
        print(
            f"{config.serving_root}: {verb} {len(pruned.releases)} releases, {len(pruned.encoders)} encoders, "
            f"{len(pruned.segments)} segments of the journal, {len(pruned.contents)} contents, {len(pruned.caches)} "
            f"caches and {pruned.embeddings} cached embeddings"
        )
    print(
        f"{config.root}: {verb} {len(retained.runs)} runs, {len(retained.folders)} folders, "
        f"{retained.size / 1e6:.1f} MB"
    )
    return 0
