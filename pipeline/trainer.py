"""Trains an autoencoder and exports its encoder: the `run_fn` of TFX's Trainer."""

import hashlib
import json
import logging
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components import features
from pipeline import autoencoders, export, preprocessing
from pipeline.config import EncoderConfig, TrainingConfig
from pipeline.examples import Split, open_split, pixel_dataset

logger = logging.getLogger(__name__)


def run_fn(fn_args: Any) -> None:
    """Trains by `fn_args.custom_config` (sections `encoder`, `training`; `checkpoints`, a folder) and exports.

    A run that was killed goes on from its last whole epoch, as long as data, config and code are the same.
    """
    custom = fn_args.custom_config
    encoder = EncoderConfig(**{**custom["encoder"], "filters": tuple(custom["encoder"]["filters"])})
    training = TrainingConfig(**custom["training"])
    keras.utils.set_random_seed(training.seed)

    transform = tft.TFTransformOutput(fn_args.transform_output)
    layer = transform.transform_features_layer()

    def to_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
        return layer({features.IMAGE: image_bytes[:, tf.newaxis]})[preprocessing.PIXELS]

    train, evaluation = open_split(fn_args.train_files), open_split(fn_args.eval_files)
    key = checkpoint_key(custom, [*train.files, *evaluation.files])
    scratch = pathlib.Path(custom["checkpoints"]) / key

    def dataset(split: Split, name: str, shuffle_seed: int | None) -> tf.data.Dataset:
        return pixel_dataset(
            split,
            to_pixels,
            batch_size=training.batch_size,
            cache_bytes=training.cache_bytes,
            cache_folder=scratch / name,
            shuffle_seed=shuffle_seed,
        )

    autoencoder = build(encoder, *_statistics(layer, train) if encoder.standardise else (None, None))
    history = fit(
        autoencoder.whole,
        dataset(train, "train", training.seed),
        dataset(evaluation, "eval", None),
        training,
        steps_per_epoch=steps_per_epoch(train.count, training),
        checkpoints=scratch / "backup",
        logs=pathlib.Path(fn_args.model_run_dir),
    )
    info = {
        "family": encoder.family,
        "dimension": encoder.dimension,
        "height": encoder.height,
        "width": encoder.width,
        "channels": encoder.channels,
        "fit": encoder.fit,
        "normalised": True,
        "history": history,
    }
    export.export(autoencoder, to_pixels, layer, pathlib.Path(fn_args.serving_model_dir), info)


def build(encoder: EncoderConfig, mean: Any = None, variance: Any = None) -> autoencoders.Autoencoder:
    """Returns the untrained network that `encoder` describes. mean, variance: `[C]`, to standardise by."""
    return autoencoders.convolutional(
        height=encoder.height,
        width=encoder.width,
        channels=encoder.channels,
        dimension=encoder.dimension,
        filters=encoder.filters,
        mean=mean,
        variance=variance,
    )


def steps_per_epoch(count: int, training: TrainingConfig) -> int:
    """Returns the steps of an epoch: one pass over `count` images, or more where that would train too little."""
    return max(-(-count // training.batch_size), -(-training.min_steps // training.epochs))


def learning_rate(training: TrainingConfig, steps_per_epoch: int) -> Any:
    """Returns the learning rate, or its schedule over the steps of all epochs."""
    rate, steps = training.learning_rate, training.epochs * steps_per_epoch
    if training.schedule == "inverse_time":
        # Keras 2's `decay=rate / epochs`, which the paper's lineage uses: per step, not per epoch.
        return keras.optimizers.schedules.InverseTimeDecay(rate, 1, rate / training.epochs)
    if training.schedule == "cosine":
        warmup = min(steps // 20, steps_per_epoch)
        if warmup == 0:
            return keras.optimizers.schedules.CosineDecay(rate, max(steps, 1), alpha=0.01)
        return keras.optimizers.schedules.CosineDecay(
            rate / 10, steps - warmup, alpha=0.01, warmup_target=rate, warmup_steps=warmup
        )
    return rate


def fit(
    model: keras.Model,
    train: Any,
    evaluation: Any,
    training: TrainingConfig,
    *,
    steps_per_epoch: int,
    checkpoints: pathlib.Path,
    logs: pathlib.Path,
) -> dict[str, list[float]]:
    """Trains `model` to reconstruct (MSE, Adam); returns Keras' history: one value an epoch for each metric.

    train is passed over as often as `steps_per_epoch` needs. checkpoints: where an interrupted run left its last
    epoch, and this one leaves its own; emptied at the end.
    """
    model.compile(keras.optimizers.Adam(learning_rate(training, steps_per_epoch)), loss="mean_squared_error")
    callbacks = [
        keras.callbacks.BackupAndRestore(str(checkpoints), delete_checkpoint=True),
        keras.callbacks.TensorBoard(str(logs), update_freq="epoch"),
        _Progress(training.epochs),
    ]
    if training.patience:
        callbacks.append(
            keras.callbacks.EarlyStopping(patience=training.patience, restore_best_weights=True, verbose=1)
        )
    history = model.fit(
        train.repeat(),
        validation_data=evaluation,
        epochs=training.epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=callbacks,
        verbose=0,
    ).history
    return {name: [float(value) for value in values] for name, values in history.items()}


class _Progress(keras.callbacks.Callback):
    """One log line an epoch: TFX's log is what a pod shows."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        metrics = ", ".join(f"{name} {value:.5f}" for name, value in (logs or {}).items())
        logger.info("epoch %d of %d: %s", epoch + 1, self._epochs, metrics)


def checkpoint_key(custom_config: dict[str, Any], files: list[str]) -> str:
    """Returns what an interrupted run must share with the one that goes on from it, as 16 hex digits.

    Everything that was configured (the code's fingerprint with it), and the names and sizes of the examples.
    """
    stat = [(name, tf.io.gfile.stat(name).length) for name in files]
    text = json.dumps([custom_config, stat], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _statistics(layer: Any, split: Split) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    # The analysers' results are the same in every row: one example tells them.
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    record = next(iter(tf.data.TFRecordDataset(split.files, "GZIP").batch(1)))
    outputs = layer({features.IMAGE: tf.io.parse_example(record, spec)[features.IMAGE][:, tf.newaxis]})
    return outputs[preprocessing.MEAN].numpy()[0], outputs[preprocessing.VARIANCE].numpy()[0]
