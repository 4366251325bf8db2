"""How much of the training speed reading costs: the trainer on examples, beside the same Keras fit on arrays in memory.

  make bench NAME=training IMAGES=mnist/train      (default: the demo's digits)

Both train the default network; an epoch's images a second, the median of all epochs but the first, which decodes.
"""

import hashlib
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks._results import Goal, arguments, digits, report
from components import features
from components.pixels import PixelShape, decode, decode_pixels
from pipeline import trainer
from pipeline.config import TrainingConfig
from pipeline.encoder_config import EncoderConfig
from pipeline.examples import open_split, pixel_dataset
from pipeline.families import Trainee

SHAPE = PixelShape(28, 28, 1)
ENCODER = EncoderConfig(height=28, width=28, channels=1)


class Watch(keras.callbacks.Callback):
    """Takes the time of every epoch's training, without its validation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._last = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.seconds.append(self._last - self._began)


def write_examples(images: list[bytes], folder: pathlib.Path) -> str:
    """Writes what ImageExampleGen writes, as far as training reads it; returns the pattern of the files."""
    with tf.io.TFRecordWriter(str(folder / "data-00000-of-00001.gz"), "GZIP") as writer:
        for image in images:
            values = {features.IMAGE: image, features.SHA256: hashlib.sha256(image).hexdigest().encode()}
            feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return str(folder / "data-*")


def from_examples(images: list[bytes], training: TrainingConfig, scratch: pathlib.Path) -> list[float]:
    """Returns the seconds of each epoch of the trainer's own fit."""
    split = open_split([write_examples(images, scratch)])

    def dataset(seed: int | None) -> tf.data.Dataset:
        return pixel_dataset(
            split,
            lambda data: tf.cast(decode(data, SHAPE), tf.float32),
            batch_size=training.batch_size,
            cache_bytes=training.cache_bytes,
            cache_folder=scratch / "cache",
            shuffle_seed=seed,
        )

    watch = Watch()
    trainer.fit(
        trainer.build(ENCODER),
        dataset(1),
        dataset(None).take(1),
        training,
        steps_per_epoch=trainer.steps_per_epoch(split.count, training),
        checkpoints=scratch / "backup",
        logs=scratch / "logs",
        callbacks=[watch],
    )
    return watch.seconds


def from_memory(images: list[bytes], training: TrainingConfig) -> list[float]:
    """Returns the seconds of each epoch of Keras' fit on float32 arrays."""
    pixels = decode_pixels(images, SHAPE).astype(np.float32) / 255.0
    trainee = Trainee(trainer.build(ENCODER))
    steps = trainer.steps_per_epoch(len(pixels), training)
    trainee.compile(keras.optimizers.Adam(trainer.learning_rate(training, steps)), jit_compile=False)
    watch = Watch()
    trainee.fit(
        (pixels, pixels),
        pixels,
        batch_size=training.batch_size,
        epochs=training.epochs,
        verbose=0,
        callbacks=[watch],
    )
    return watch.seconds


def main() -> None:
    flags = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        files = sorted((flags.images or digits(scratch / "digits")).rglob("*.png"))
        # Contents that occur twice are trained on once.
        images = list(dict.fromkeys(file.read_bytes() for file in files[: 1_000 if flags.scale == "small" else None]))
        training = TrainingConfig(epochs=3 if flags.scale == "small" else 6, min_steps=0)
        seconds = {"examples": from_examples(images, training, scratch), "memory": from_memory(images, training)}
    rates = {name: len(images) / statistics.median(taken[1:]) for name, taken in seconds.items()}
    rows = [
        {"from": name, "images/s": rate, "first epoch s": seconds[name][0], "s/epoch": len(images) / rate}
        for name, rate in rates.items()
    ]
    goals = []
    if flags.scale == "full":
        goals.append(
            Goal("training from examples, as a share of from memory", rates["examples"] / rates["memory"], 0.9)
        )
    report("training", flags.scale, rows, goals, images=len(images))


if __name__ == "__main__":
    main()
