"""What the Embedder's Beam job costs beside a plain loop over its SavedModel, and what a second worker brings.

  make bench NAME=embed IMAGES=mnist/train/      60,000 digits, each also upside down, and 8,000 photographs of
                                                 256 x 256 made from a seed
  make bench NAME=embed SCALE=small              1,000 of the demo's digits, 60 photographs

The loop reads the same examples and calls the same SavedModel, loaded before, in the same batches. The job has an empty
cache; beside encoding it writes the items, the vectors and the cache. (Thumbnails are made by ingest, which is in
neither.) First as it runs by default, in this process, all cores free to both. Then in worker processes of one thread
each, one of them and two, and the loop with TensorFlow held to one thread. Worker start (until all of them have
imported their modules) and loading the encoder are no part of images per second: they are reported apart. Medians of 5;
loop and job take turns.
"""

import io
import json
import logging
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks._embedding import Job, count_examples, make_examples, run_job, run_loop, write_images
from benchmarks._encoders import DIGIT, PHOTO, write_encoder
from benchmarks._photos import make_photos
from benchmarks._results import Goal, arguments, digits, report

RUNS = 5
PHOTOS = {"full": 8000, "small": 60}
LOOP_RATIO, WORKER_RATIO = 0.8, 1.7


def loop_of_one_thread(examples: str, model: pathlib.Path, runs: int) -> list[float]:
    """Returns the seconds of plain loops in a process whose TensorFlow has one thread."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.embed", "--loop", examples, str(model), str(runs)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def turned_digits(files: list[pathlib.Path]) -> list[bytes]:
    """Returns digits and the same upside down: more than a few seconds of work, beside which what a job begins and ends
    with, the same for any number of workers, is no steady state."""
    digits = [file.read_bytes() for file in files]
    for digit in digits[:]:
        with Image.open(io.BytesIO(digit)) as image:
            buffer = io.BytesIO()
            image.transpose(Image.Transpose.ROTATE_180).save(buffer, "PNG")
            digits.append(buffer.getvalue())
    return digits


def turned_photos(count: int) -> list[bytes]:
    """Returns photographs, each made once and turned three times: no two are alike, and turning is quick."""
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    photos = make_photos(-(-count // 4))
    for photo in photos[:]:
        with Image.open(io.BytesIO(photo)) as image:
            for turn in turns:
                buffer = io.BytesIO()
                image.transpose(turn).save(buffer, "JPEG", quality=90)
                photos.append(buffer.getvalue())
    return photos[:count]


def measure(kind: str, examples: str, model: pathlib.Path, runs: int, worker_runs: int) -> tuple[list[dict], dict]:
    """Returns rows for the table, and what the goals and the JSON need."""
    images = count_examples(examples)
    loops, jobs = [], []
    run_job(examples, model)
    for _ in range(runs):
        loops += run_loop(examples, model, 1)
        jobs.append(run_job(examples, model))
        print(f"  {kind}: loop {loops[-1]:.2f} s, job {jobs[-1].work:.2f} s", flush=True)
    single = loop_of_one_thread(examples, model, runs) if worker_runs else []
    crews: dict[int, list[Job]] = {1: [], 2: []}
    for _ in range(worker_runs):
        for workers, found in crews.items():
            found.append(run_job(examples, model, workers=workers, threads=1))
            print(f"  {kind}: {workers} workers, {found[-1]}", flush=True)
    rows = [
        {"images": kind, "run": "loop", "images/s": images / statistics.median(loops)},
        {"images": kind, "run": "job", **job_row(jobs, images)},
    ]
    facts: dict = {
        "images": images,
        "ratios": [loop / job.work for loop, job in zip(loops, jobs, strict=True)],
        "loop_seconds": loops,
        "job_seconds": [job.work for job in jobs],
    }
    if worker_runs:
        rows.append({"images": kind, "run": "loop, one thread", "images/s": images / statistics.median(single)})
        for workers, found in crews.items():
            name = f"job, {workers} worker{'s' * (workers > 1)} of one thread"
            rows.append({"images": kind, "run": name, **job_row(found, images)})
        facts["worker_ratios"] = [one.work / two.work for one, two in zip(crews[1], crews[2], strict=True)]
        facts["one_thread_ratio"] = statistics.median(single) / statistics.median(job.work for job in crews[1])
        facts["one_thread_loop_seconds"] = single
        facts["worker_seconds"] = {str(workers): [job.work for job in found] for workers, found in crews.items()}
    return rows, facts


def job_row(jobs: list[Job], images: int) -> dict:
    """Returns the medians of some jobs as columns."""
    load, work = (statistics.median(getattr(job, name) for job in jobs) for name in ("load", "work"))
    start = {"start s": statistics.median(job.start for job in jobs)} if jobs[0].start else {}
    return {"images/s": images / work, "load s": load, **start}


def main() -> None:
    if sys.argv[1:2] == ["--loop"]:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        examples, model, runs = sys.argv[2:]
        sys.stdout.write(json.dumps(run_loop(examples, pathlib.Path(model), int(runs))) + "\n")
        return
    flags = arguments(__doc__, kinds="of digits,photos (default: both)")
    logging.getLogger().setLevel(logging.WARNING)
    small = flags.scale == "small"
    runs, worker_runs = (1, 0) if small else (RUNS, RUNS)
    rows: list[dict] = []
    goals: list[Goal] = []
    facts: dict = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        for kind in (flags.kinds or "digits,photos").split(","):
            if kind == "digits":
                folder, shape = flags.images or digits(root / "digits"), DIGIT
                files = sorted(folder.rglob("*.png"))
                if small:
                    chosen = [files[n].read_bytes() for n in np.linspace(0, len(files) - 1, 1000).astype(int)]
                    folder = write_images(root / "some", chosen, ".png")
                else:
                    folder = write_images(root / "turned", turned_digits(files), ".png")
            else:
                folder, shape = write_images(root / "photos", turned_photos(PHOTOS[flags.scale]), ".jpg"), PHOTO
            examples = make_examples(folder, root / f"{kind}-in")
            first = [file.read_bytes() for file in sorted(folder.rglob("*.*"))[:4] if file.is_file()]
            write_encoder(root / f"{kind}-encoder", first, dimension=64, shape=shape)
            # Small: one job of two workers shows that it runs; what it costs is no figure.
            its_rows, its = measure(kind, examples, root / f"{kind}-encoder", runs, worker_runs)
            rows += its_rows
            facts[kind] = its
            if small:
                continue
            goals.append(Goal(f"job against loop, {kind}", statistics.median(its["ratios"]), LOOP_RATIO))
            goals.append(
                Goal(f"two workers against one, {kind}", statistics.median(its["worker_ratios"]), WORKER_RATIO)
            )
        if small:
            run_job(str(root / "digits-in" / "examples"), root / "digits-encoder", workers=2, threads=1)
    report("embed", flags.scale, rows, goals, measured=facts)


if __name__ == "__main__":
    main()
