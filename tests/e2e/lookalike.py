"""Runs the `lookalike` command as a user does: a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

# A network that learns little in seconds, and gates that let it: these tests are about the whole.
QUICK = [
    "training.epochs=2",
    "training.min_steps=150",
    "encoder.filters=[8]",
    "encoder.dimension=16",
    "ingest.shards=2",
    "evaluation.pca_tolerance=0.3",
    "evaluation.served_tolerance=0.2",
]


def lookalike(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "serving.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)


def run(images: pathlib.Path, root: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the training pipeline with `root/pipeline` and `root/serving`."""
    flags = [flag for option in [*QUICK, *options] for flag in ("--set", option)]
    roots = ["--root", str(root / "pipeline"), "--serving-root", str(root / "serving")]
    return lookalike("run", "--images", str(images), *roots, *flags)


def last_run(root: pathlib.Path) -> dict:
    return json.loads((root / "pipeline" / "last_run.json").read_text())
