"""Runs the training pipeline on this machine: images in, a published release out.

  lookalike run --images photos/                       everything else by default
  lookalike run --config configs/default.yaml          every option, documented in that file
  lookalike run --images photos/ --set training.epochs=30 --set encoder.dimension=32

Flags override the file. A second run does only what changed images, options or code make necessary. The release
appears in the serving root, and a gateway that serves from there takes it up by itself.
"""

import argparse
import json
import logging
import sys

HELP = "train on a collection of images and publish a release"
FLAGS = {
    "images": ("ingest.images", "folder, zip, tar, or CSV/JSONL manifest of images"),
    "root": ("root", "where the pipeline keeps its artifacts (default: runs)"),
    "serving-root": ("serving_root", "where releases are published (default: runs/serving)"),
    "label-from": ("ingest.label_from", "'folder' or 'manifest': labels to evaluate with; training never sees them"),
    "epochs": ("training.epochs", "passes over the images"),
    "dimension": ("encoder.dimension", "numbers in an embedding"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--config", metavar="FILE", help="YAML file of options")
    for flag, (option, text) in FLAGS.items():
        parser.add_argument(f"--{flag}", help=f"{text} [{option}]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="any option of the config file; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 with a release published, 1 where the run failed, 2 for a wrong option."""
    from pipeline import config as configuration
    from pipeline.local_runner import run_training

    given = {option: getattr(arguments, flag.replace("-", "_")) for flag, (option, _) in FLAGS.items()}
    overrides = [f"{option}={value}" for option, value in given.items() if value is not None]
    try:
        config = configuration.load(arguments.config, [*overrides, *arguments.set])
        if not config.ingest.images:
            raise configuration.ConfigError("ingest.images must name a collection: --images FOLDER.")
    except (configuration.ConfigError, OSError) as error:
        print(f"lookalike run: {error}", file=sys.stderr)
        return 2
    for name in ("components", "pipeline", "serving"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        summary = run_training(config)
    except Exception as error:
        # The trace is for those who ask; the message must be enough for the rest.
        logging.getLogger(__name__).debug("the run failed", exc_info=True)
        print(f"lookalike run: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(summary))
    else:
        for name, seconds in summary["components"].items():
            print(f"{name:<20} {seconds:7.1f} s")
        if summary["cached"]:
            print(f"unchanged, not run again: {', '.join(summary['cached'])}")
        print(f"release {summary['release_id']} is in {config.serving_root}, after {summary['seconds']:.0f} s")
    return 0
