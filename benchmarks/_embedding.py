"""The Embedder's Beam job and a plain loop over its SavedModel, on the same examples. `N` images."""

import dataclasses
import logging
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from components import features
from components.embedder import EmbedExamples, read_encoder_info
from components.embedding.example_shards import ExampleShard, list_shards
from components.embedding.flow import EmbedOptions
from components.embedding.parts import REPORT
from components.image_example_gen import ingest
from components.ingest.shards import IngestOptions
from pipeline.config import PipelineConfig

BATCH = 256
_LOADED = re.compile(r"loaded the encoder \S+ in ([\d.]+) s")
_PATIENCE = 120.0


@dataclasses.dataclass(frozen=True)
class Job:
    """Seconds of one run. start: until every worker is there. load: of the encoder, by the slowest worker.

    work: from there to the report, without `load`.
    """

    start: float
    load: float
    work: float


class Meet(beam.DoFn):
    """Passes shards on, in each worker process only when all `workers` of them are there with their modules imported.

    folder: where they tell each other.
    """

    def __init__(self, folder: str, workers: int) -> None:
        self._folder = pathlib.Path(folder)
        self._workers = workers

    def setup(self) -> None:
        """Waits for the others; goes on without them after two minutes."""
        import os

        import components.embedding.encoding  # noqa: F401 (TensorFlow comes with it)

        (self._folder / str(os.getpid())).touch()
        deadline = time.monotonic() + _PATIENCE
        while len(list(self._folder.iterdir())) < self._workers and time.monotonic() < deadline:
            time.sleep(0.01)

    def process(self, shard: ExampleShard) -> Iterator[ExampleShard]:
        yield shard


class _Loads(logging.Handler):
    """Keeps the seconds that the encoder took to load, wherever that was: workers' messages are passed on to us."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seconds: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        match = _LOADED.search(record.getMessage())
        if match:
            self.seconds.append(float(match[1]))


def make_examples(images: pathlib.Path, folder: pathlib.Path) -> str:
    """Ingests the images as a run does; returns the uri of the examples."""
    options = IngestOptions(label_from="parent")
    source = options.source(str(images))
    examples, report = str(folder / "examples"), str(folder / "report")
    ingest(source, options, examples, report, beam.Pipeline(options=PipelineOptions(list(PipelineConfig().beam_args))))
    return examples


def run_job(examples: str, model: pathlib.Path, *, workers: int = 0, threads: int = 0) -> Job:
    """Runs the Embedder's job with an empty cache. workers: processes, 0 for this one. threads: of each, 0 for all."""
    info, digest = read_encoder_info(model)
    arguments = list(PipelineConfig().beam_args)
    if workers:
        arguments = [argument for argument in arguments if not argument.startswith("--direct")]
        arguments += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    loads, root = _Loads(), logging.getLogger()
    level, handlers = root.level, root.handlers
    root.handlers = [loads]
    root.setLevel(logging.INFO)
    try:
        with tempfile.TemporaryDirectory() as output, tempfile.TemporaryDirectory() as meeting:
            options = EmbedOptions(
                *(str(model), digest, info.dimension, f"{output}/embeddings", f"{output}/root", BATCH, examples),
                threads=threads,
            )
            shards = list_shards(examples)
            began = time.time()
            with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
                met = pipeline | beam.Create(shards) | beam.ParDo(Meet(meeting, max(1, workers)))
                _ = met | EmbedExamples(options, shards)
            # One clock for all processes: that of the file system.
            there = [file.stat().st_mtime for file in pathlib.Path(meeting).iterdir()]
            done = (pathlib.Path(output) / "embeddings" / REPORT).stat().st_mtime
    finally:
        root.handlers = handlers
        root.setLevel(level)
    if len(there) != max(1, workers):
        raise SystemExit(f"{max(1, workers)} workers were asked for, {len(there)} took part.")
    # In this process the building of the pipeline is part of the work: it comes with every run.
    start = max(there) - began if workers else 0.0
    load = max(loads.seconds)
    return Job(start, load, done - began - start - load)


def run_loop(examples: str, model: pathlib.Path, runs: int) -> list[float]:
    """Returns the seconds of `runs` plain loops over the SavedModel, loaded before, after one that doesn't count."""
    files = sorted(str(file) for file in pathlib.Path(examples).rglob("data_tfrecord*"))
    encode = tf.saved_model.load(str(model)).signatures["serving_default"]
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        records = tf.data.TFRecordDataset(files, "GZIP").batch(BATCH)
        images = records.map(lambda some: tf.io.parse_example(some, spec)[features.IMAGE]).prefetch(2)
        np.concatenate([encode(image_bytes=batch)["embedding"].numpy() for batch in images])
        times.append(time.perf_counter() - began)
    return times[1:]


def count_examples(examples: str) -> int:
    """Returns how many images they hold."""
    files = sorted(str(file) for file in pathlib.Path(examples).rglob("data_tfrecord*"))
    return sum(1 for _ in tf.data.TFRecordDataset(files, "GZIP"))


def write_images(folder: pathlib.Path, images: Sequence[bytes], suffix: str) -> pathlib.Path:
    """Writes images into a folder; returns it."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / f"{number:06d}{suffix}").write_bytes(image)
    return folder
