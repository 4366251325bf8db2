"""What a whole training run costs, and what the Embedder adds to a plain loop over the SavedModel.

  make bench NAME=pipeline IMAGES=mnist/train/      the whole run on 60,000 images
  make bench NAME=pipeline SCALE=small              on 1,000 of the demo's digits

Seconds and images per second of each component, from one run of `lookalike run` as a process, with the peak memory of
the largest process of its tree. The Embedder's Beam job (cache empty, process warm) against reading the same examples
and calling the same SavedModel in batches of 64 in a loop: images per second, medians of 5, one after the other.
"""

import json
import logging
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import apache_beam as beam
import numpy as np
import psutil
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks._results import Goal, arguments, digits, report
from components import features
from components.embedder import EmbedExamples, read_encoder_info
from components.embedding.example_shards import list_shards
from components.embedding.flow import EmbedOptions
from pipeline.config import PipelineConfig

LOOP_BATCH, BEAM_BATCH = 64, 256  # the Embedder's own is larger: fewer calls for the same work
RUNS = 5


def peak_memory(process: subprocess.Popen[bytes]) -> float:
    """Waits for `process`; returns the largest VmHWM of any process of its tree, in GiB."""
    highest = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for each in [root, *root.children(recursive=True)]:
                status = pathlib.Path(f"/proc/{each.pid}/status").read_text()
                highest = max([highest, *(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmHWM"))])
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.5)
    return highest / 2**20


def run_pipeline(images: pathlib.Path, root: pathlib.Path, epochs: int) -> dict:
    """Runs the whole pipeline on `images`; returns its summary with `peak_gib`."""
    command = [sys.executable, "-m", "serving.cli", "run", "--images", str(images), "--label-from", "folder"]
    command += ["--root", str(root / "run"), "--serving-root", str(root / "serving"), "--epochs", str(epochs)]
    with (root / "run.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        done = threading.Event()
        threading.Thread(target=follow, args=(root / "run.log", done), daemon=True).start()
        peak = peak_memory(process)
        done.set()
    if process.returncode:
        raise SystemExit((root / "run.log").read_text()[-3000:])
    return {**json.loads((root / "run" / "last_run.json").read_text()), "peak_gib": peak}


def follow(log: pathlib.Path, done: threading.Event) -> None:
    """Prints the lines of the log by which a person follows a run."""
    shown = 0
    while not done.wait(2):
        lines = log.read_text(errors="replace").splitlines()
        for line in lines[shown:]:
            if " is running." in line or "epoch " in line:
                print("  " + line[-100:], flush=True)
        shown = len(lines)


def embed_by_beam(examples: str, model: pathlib.Path) -> float:
    """Returns the seconds that the Embedder's Beam job takes."""
    info, digest = read_encoder_info(model)
    with tempfile.TemporaryDirectory() as output:
        where = (f"{output}/embeddings", f"{output}/root")
        options = EmbedOptions(str(model), digest, info.dimension, *where, BEAM_BATCH, examples)
        shards = list_shards(examples)
        began = time.perf_counter()
        with beam.Pipeline(options=PipelineOptions(list(PipelineConfig().beam_args))) as pipeline:
            _ = pipeline | beam.Create(shards) | beam.Reshuffle() | EmbedExamples(options, shards)
        return time.perf_counter() - began


def embed_by_loop(files: list[str], encode: tf.types.experimental.GenericFunction) -> float:
    """Returns the seconds that a plain loop over the SavedModel takes."""
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    began = time.perf_counter()
    batches = tf.data.TFRecordDataset(files, "GZIP").batch(LOOP_BATCH).map(lambda r: tf.io.parse_example(r, spec))
    vectors = [encode(image_bytes=batch[features.IMAGE])["embedding"].numpy() for batch in batches.prefetch(2)]
    np.concatenate(vectors)
    return time.perf_counter() - began


def main() -> None:
    flags = arguments(__doc__, epochs="passes over the images (default: 12, small: 2)")
    logging.getLogger().setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        images = flags.images or digits(root / "digits")
        if flags.scale == "small":
            small = root / "small"
            for number, file in enumerate(sorted(images.rglob("*.png"))[:: len(list(images.rglob("*.png"))) // 1000]):
                target = small / file.parent.name / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
            images = small
        began = time.perf_counter()
        summary = run_pipeline(images, root, int(flags.epochs or (2 if flags.scale == "small" else 12)))
        whole = time.perf_counter() - began

        evaluation = json.loads(next((root / "run/artifacts/EncoderEvaluator").rglob("evaluation.json")).read_text())
        index = json.loads(next((root / "run/artifacts/IndexEvaluator").rglob("evaluation.json")).read_text())
        model = next((root / "run/artifacts/ServingValidator").rglob("stamped_model"))
        examples = str(next((root / "run/artifacts/ImageExampleGen/examples").iterdir()))
        files = sorted(str(file) for file in pathlib.Path(examples).rglob("data_tfrecord*"))
        count = sum(1 for _ in tf.data.TFRecordDataset(files, "GZIP"))
        encode = tf.saved_model.load(str(model)).signatures["serving_default"]
        ratios, loops, beams = [], [], []
        for run in range(RUNS + 1):
            loop, job = embed_by_loop(files, encode), embed_by_beam(examples, model)
            print(f"  loop {loop:.2f} s, Beam {job:.2f} s{' (warm-up)' if run == 0 else ''}", flush=True)
            if run:
                ratios.append(loop / job)
                loops.append(count / loop)
                beams.append(count / job)

    rows = [
        {"component": name, "seconds": seconds, "images/s": count / max(seconds, 1e-9)}
        for name, seconds in summary["components"].items()
    ]
    rows.append({"component": "the whole run", "seconds": whole, "images/s": count / whole})
    rows.append({"component": "SavedModel in a loop", "images/s": statistics.median(loops)})
    rows.append({"component": "Embedder's Beam job", "images/s": statistics.median(beams)})
    goals = []
    if flags.scale == "full":
        goals = [
            Goal("embedding against a plain loop", statistics.median(ratios), 0.5),
            Goal("minutes of the whole run", whole / 60, 30, at_most=True),
            Goal("GiB of the largest process", summary["peak_gib"], 4, at_most=True),
        ]
    measured = {name: evaluation[name] for name in ("reconstruction", "recall", "labelled", "queries", "database")}
    report(
        "pipeline",
        flags.scale,
        rows,
        goals,
        images=count,
        embed_ratios=ratios,
        peak_gib=summary["peak_gib"],
        encoder=measured,
        index={name: index[name] for name in ("kind", "parameters", "recall", "latency_seconds")},
    )


if __name__ == "__main__":
    main()
