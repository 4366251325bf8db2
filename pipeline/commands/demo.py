"""Shows the whole of Lookalike on one machine: images in, a release published and served, real queries answered.

  lookalike demo                        5,000 handwritten digits, 500 of them held out as queries
  lookalike demo --images some/folder   the same on any folder of images

Writes report.html, results.png (queries and their neighbours) and reconstructions.png to the demo folder, prints the
neighbours of one query, and stops what it started. A second run reuses what is there.
"""

import argparse
import pathlib
import subprocess
import sys
import time

from pipeline import demonstration, processes
from pipeline.demonstration import Collection, DemoError

HELP = "the whole of it on one machine, ending with an answer to look at"
_WIDTH = 110  # characters of a log line that are shown: its end, which says what happened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's flags."""
    parser.add_argument("--images", help="folder, zip, tar or manifest of images (default: MNIST digits)")
    parser.add_argument("--folder", default="demo", help="where everything of the demo is kept (default: %(default)s)")
    parser.add_argument("--config", help="YAML file of options for the run")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="any option; repeatable")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns 0 with the report written."""
    began = time.monotonic()
    folder = pathlib.Path(arguments.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        collection = demonstration.prepare(folder, arguments.images)
        _run_pipeline(folder, collection, arguments)
        with demonstration.service(collection.serving_root, folder / "processes") as service:
            demonstration.show(service, collection)
    except (demonstration.DemoError, processes.ProcessError) as error:
        print(f"lookalike demo: {error}", file=sys.stderr)
        return 1
    print(f"\nLook at {collection.folder / 'report.html'} ({time.monotonic() - began:.0f} s in all).")
    return 0


def _run_pipeline(folder: pathlib.Path, collection: Collection, arguments: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "serving.cli", "run", "--images", str(collection.images)]
    command += ["--root", str(collection.folder / "pipeline"), "--serving-root", str(collection.serving_root)]
    command += ["--label-from", collection.label_from] if collection.label_from else []
    if arguments.config:
        command += ["--config", arguments.config]
    elif not arguments.images:
        # As configs/mnist.yaml: most digits look like many others.
        command += ["--set", "index.duplicates.hamming=4", "--set", "index.duplicates.cosine=0.98"]
    for override in arguments.set:
        command += ["--set", override]
    log = collection.folder / "pipeline.log"
    print(f"The pipeline runs on {collection.images}; its log is {log}", flush=True)
    status = 0
    with log.open("w") as handle:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            handle.write(line)
            if any(sign in line for sign in (" is running.", "epoch ", "release ", " s\n")) or status:
                line = line.rstrip()
                print("  " + (line if len(line) <= _WIDTH else "…" + line[1 - _WIDTH :]), flush=True)
        status = process.wait()
    if status:
        tail = log.read_text().splitlines()[-30:]
        raise DemoError("the pipeline failed:\n" + "\n".join(tail))
