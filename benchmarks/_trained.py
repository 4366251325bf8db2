"""An encoder trained and exported as the pipeline does it, from a collection in memory, and what it is worth."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from benchmarks._labelled import Collection, Part
from components.evaluation import metrics, references
from components.evaluation.altered_copies import KINDS, altered_copy
from components.evaluation.exported_encoder import ExportedEncoder
from components.pixels import PixelShape, decode, decode_pixels
from pipeline import export, trainer
from pipeline.config import PipelineConfig
from pipeline.encoder_config import BINARY, SUPERVISED
from pipeline.families import Collected

_BLOCK = 5_000


class TimeLimit(keras.callbacks.Callback):
    """Ends training after the epoch in which so many minutes have passed."""

    def __init__(self, minutes: float) -> None:
        super().__init__()
        self._ends = time.monotonic() + 60.0 * minutes

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.model.stop_training = time.monotonic() > self._ends


def pixels_of(images: Sequence[bytes], shape: PixelShape) -> npt.NDArray[np.uint8]:
    """Returns uint8 `[N, H, W, C]`, decoded in blocks."""
    blocks = [decode_pixels(images[start : start + _BLOCK], shape) for start in range(0, len(images), _BLOCK)]
    return np.concatenate(blocks)


def train(
    config: PipelineConfig, collection: Collection, folder: pathlib.Path, minutes: float
) -> tuple[ExportedEncoder, int]:
    """Trains config.encoder on the train part, as trainer.run_fn does, and returns it as exported to `folder`.

    With it, for how many epochs it was trained: 0 for what is fitted.
    """
    shape = PixelShape(config.encoder.height, config.encoder.width, config.encoder.channels, config.encoder.fit)
    training = config.training
    keras.utils.set_random_seed(training.seed)
    pixels = pixels_of(collection.train.images, shape)
    supervised = config.encoder.family in SUPERVISED
    kinds = len(set(collection.train.labels.tolist())) if supervised else 0
    flat = pixels.reshape(-1, shape.channels)
    mean, variance = (flat.mean(axis=0) / 255.0, flat.var(axis=0) / 255.0**2)
    known = Collected(mean, variance, kinds) if config.encoder.standardise else Collected(labels=kinds)
    network = trainer.build(config.encoder, known)
    # The validation loss is only watched; a part of the test images is enough for that.
    held_out = collection.test.first(1_000)

    def dataset(part: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], *, shuffled: bool) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices((part, labels))
        if shuffled:
            rows = rows.shuffle(len(part), seed=training.seed, reshuffle_each_iteration=True)

        def pair(image: tf.Tensor, label: tf.Tensor) -> Any:
            scaled = tf.cast(image, tf.float32) / 255.0
            return scaled, label if supervised else scaled

        return rows.batch(training.batch_size).map(pair, num_parallel_calls=2).prefetch(2)

    history: dict[str, list[float]] = {}
    if network.loss is not None:
        history = trainer.fit(
            network,
            dataset(pixels, collection.train.labels, shuffled=True),
            dataset(pixels_of(held_out.images, shape), held_out.labels, shuffled=False),
            training,
            steps_per_epoch=trainer.steps_per_epoch(len(pixels), training),
            checkpoints=folder / "backup",
            logs=folder / "logs",
            callbacks=[TimeLimit(minutes)],
        )
    trainer.fit_once(network, dataset(pixels, collection.train.labels, shuffled=False), 0)
    info = {
        "family": config.encoder.family,
        "dimension": network.dimension,
        "height": shape.height,
        "width": shape.width,
        "channels": shape.channels,
        "fit": shape.fit,
        "normalised": True,
    }
    export.export(network, lambda data: tf.cast(decode(data, shape), tf.float32), None, folder / "model", info)
    return ExportedEncoder(str(folder / "model")), len(history.get("loss", []))


def scores(
    encoder: ExportedEncoder, collection: Collection, altered: int, *, codes: bool = False
) -> dict[str, metrics.LabelScores]:
    """Returns `clean`: LabelScores of the test images, and kind -> LabelScores of `altered` of them changed.

    Of binary families by their codes, the signs of their embeddings, alone. codes: also `other`, the test images by
    the embeddings of a binary family, and by the codes of any other.
    """
    binary = encoder.info.family in BINARY
    embeddings = metrics.normalize(encoder.embed(collection.train.images))
    shape = encoder.info.shape
    side = 2 * max(shape.height, shape.width)

    def of(part: Part, *, by_code: bool = binary) -> metrics.LabelScores:
        queries, database = metrics.normalize(encoder.embed(part.images)), embeddings
        if by_code:
            queries, database = references.code(queries), references.code(database)
        return metrics.label_scores(queries, part.labels, database, collection.train.labels)

    found = {"clean": of(collection.test)}
    if codes:
        found["other"] = of(collection.test, by_code=not binary)
    some = collection.test.first(altered)
    found["unaltered"] = of(some)
    for kind in KINDS:
        copies = [altered_copy(image, kind, seed=row, side=side) for row, image in enumerate(some.images)]
        found[kind] = of(Part(copies, some.labels))
    return found


def reconstruction_error(encoder: ExportedEncoder, images: Sequence[bytes]) -> float | None:
    """Returns the mean squared error the encoder reports, pixels in [0, 1]; None where it doesn't reconstruct."""
    return float(encoder.reconstruct(images)[1].mean(dtype=np.float64)) if encoder.reconstructs else None
