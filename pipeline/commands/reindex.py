"""Brings the current release up to date with its images, with the encoder that is served.

  lookalike reindex --config runs/config.json                  the options of the run that made the encoder
  lookalike reindex --images photos/ --serving-root runs/serving
  lookalike reindex --config runs/config.json --wait 600 --summary reindex.json --metrics-file reindex.prom

New, changed and deleted images are found by their listing. What the release holds of unchanged ones is neither read nor
embedded again; where nothing has changed, nothing is published.
Made for a scheduler: it ends with one of these codes.

  0  published, or unchanged: the summary says which
  1  failed
  2  a wrong option
  3  refused: the images can't be used, too many of them are gone, or the index is not good enough
  4  another reindex or publisher is at work on this serving root
  5  stale: another release was published meanwhile, or this run was taken for dead; run again
  6  there is no release to build on, or no such encoder: `lookalike run` makes the first
"""

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pipeline.reindex_summary import ReindexSummary

from pipeline.commands.run import FLAGS

HELP = "bring the current release up to date with its images"
_FLAGS = {
    **{flag: FLAGS[flag] for flag in ("images", "root", "serving-root", "label-from")},
    "encoder": ("reindex.encoder_version", "version to embed with (default: the one that the release names)"),
    "allow-removal": ("reindex.max_removed_share", "share of the items, 0 to 1, that may be gone (default: 0.5)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file of options")
    for flag, (option, text) in _FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"{text} [{option}]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="any option of the config file; repeatable"
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="for another reindex to end (default: %(default)s)"
    )
    parser.add_argument("--summary", metavar="FILE", help="write how it ended, as JSON")
    parser.add_argument(
        "--metrics-file", metavar="FILE", help="write Prometheus metrics, for a textfile collector (.prom)"
    )
    parser.add_argument("--push-gateway", metavar="HOST:PORT", help="push the metrics to a Prometheus Pushgateway")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns one of the codes above."""
    from pipeline import config as configuration
    from pipeline.reindex_runner import run_reindex
    from pipeline.reindex_summary import check_writable, write_summary

    given = {option: getattr(arguments, flag.replace("-", "_")) for flag, (option, _) in _FLAGS.items()}
    overrides = [f"{option}={value}" for option, value in given.items() if value is not None]
    try:
        config = configuration.load(arguments.config, [*overrides, *arguments.set])
        if not config.ingest.images:
            raise configuration.ConfigError("ingest.images must name a collection: --images FOLDER.")
        if not 0 <= arguments.wait <= 86_400:
            raise configuration.ConfigError(f"--wait must be in [0, 86400], got {arguments.wait:g}.")
        for file in filter(None, (arguments.summary, arguments.metrics_file)):
            check_writable(file)
    except (configuration.ConfigError, OSError) as error:
        print(f"lookalike reindex: {error}", file=sys.stderr)
        return 2
    for name in ("components", "pipeline", "serving"):
        logging.getLogger(name).setLevel(logging.INFO)
    # So that the lease is given back, and the next run needn't wait until it has run out.
    signal.signal(signal.SIGTERM, _end)
    summary = run_reindex(config, wait_seconds=arguments.wait)
    try:
        write_summary(summary, arguments.summary, arguments.metrics_file, arguments.push_gateway)
    except OSError as error:
        print(f"lookalike reindex: the summary could not be delivered: {error}", file=sys.stderr)
    _print(summary, config.serving_root)
    return summary.exit_code


def _print(summary: "ReindexSummary", serving_root: str) -> None:
    if summary.exit_code:
        print(f"lookalike reindex: {summary.status}: {summary.error}", file=sys.stderr)
        return
    told = ("items", "unchanged", "new", "changed", "removed", "deleted", "upserts", "tombstones", "skipped", "encoded")
    print(", ".join(f"{name} {summary.counts[name]}" for name in told if name in summary.counts))
    if summary.status == "unchanged":
        print(f"unchanged: {summary.release_id} holds all of it, after {summary.seconds:.0f} s")
    else:
        print(f"release {summary.release_id} is in {serving_root}, after {summary.seconds:.0f} s")


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)
