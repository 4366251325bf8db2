"""Trains the network of a family and exports its encoder: the `run_fn` of TFX's Trainer."""

import contextlib
import hashlib
import json
import logging
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components import features
from components.artifact_files import output_folder
from components.evaluation import references
from pipeline import export, preprocessing
from pipeline.config import TrainingConfig, encoder_config
from pipeline.distribution import is_chief, open_strategy
from pipeline.encoder_config import SUPERVISED, EncoderConfig
from pipeline.examples import Split, open_split, pixel_dataset
from pipeline.families import BY_NAME, Collected, Network, Trainee

logger = logging.getLogger(__name__)


def run_fn(fn_args: Any) -> None:
    """Trains by `fn_args.custom_config` (sections `encoder`, `training`; `checkpoints`, a folder) and exports.

    A run that was killed goes on from its last whole epoch, as long as data, config and code are the same and
    `checkpoints` is not in an object store: there nothing of an interrupted run is kept.
    """
    # Before anything else: several hosts must have found each other before TensorFlow has done its first thing.
    strategy = open_strategy(fn_args.custom_config["training"].get("strategy", ""))
    with (
        output_folder(fn_args.serving_model_dir) as model,
        output_folder(fn_args.model_run_dir) as logs,
        _local_folder(fn_args.custom_config["checkpoints"]) as checkpoints,
        tempfile.TemporaryDirectory() as nowhere,
    ):
        if is_chief(strategy):
            _train_and_export(fn_args, model, logs, checkpoints, strategy)
        else:
            # The others take the same steps, and what they write nobody reads.
            unread = pathlib.Path(nowhere)
            _train_and_export(fn_args, unread / "model", unread / "logs", unread / "checkpoints", strategy)


@contextlib.contextmanager
def _local_folder(uri: str) -> Iterator[pathlib.Path]:
    if "://" not in uri:
        yield pathlib.Path(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def _train_and_export(
    fn_args: Any,
    model: pathlib.Path,
    logs: pathlib.Path,
    checkpoints: pathlib.Path,
    strategy: tf.distribute.Strategy,
) -> None:
    custom = fn_args.custom_config
    encoder = encoder_config(custom["encoder"])
    training = TrainingConfig(**custom["training"])
    keras.utils.set_random_seed(training.seed)

    transform = tft.TFTransformOutput(fn_args.transform_output)
    layer = transform.transform_features_layer()

    def to_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
        return layer({features.IMAGE: image_bytes[:, tf.newaxis]})[preprocessing.PIXELS]

    with_labels = encoder.family in SUPERVISED
    train = open_split(fn_args.train_files, with_labels=with_labels)
    evaluation = open_split(fn_args.eval_files, with_labels=with_labels, kinds=train.kinds)
    key = checkpoint_key(custom, [*train.files, *evaluation.files])
    scratch = checkpoints / key

    def dataset(split: Split, name: str, shuffle_seed: int | None) -> tf.data.Dataset:
        return pixel_dataset(
            split,
            to_pixels,
            batch_size=training.batch_size,
            cache_bytes=training.cache_bytes,
            cache_folder=scratch / name,
            shuffle_seed=shuffle_seed,
        )

    mean, variance = _statistics(layer, train) if encoder.standardise else (None, None)
    with strategy.scope():
        network = build(encoder, Collected(mean, variance, len(train.kinds)))
    history = {}
    if network.loss is not None:
        history = fit(
            network,
            dataset(train, "train", training.seed),
            dataset(evaluation, "eval", None),
            training,
            steps_per_epoch=steps_per_epoch(train.count, training),
            checkpoints=scratch / "backup",
            logs=logs,
            strategy=strategy,
        )
    # A cache of its own: that of training may not be complete yet.
    fit_once(network, dataset(train, "fit", None), training.seed)
    info = {
        "family": encoder.family,
        "dimension": network.dimension,
        "height": encoder.height,
        "width": encoder.width,
        "channels": encoder.channels,
        "fit": encoder.fit,
        "normalised": True,
        "history": history,
    }
    export.export(network, to_pixels, layer, model, info)


def build(encoder: EncoderConfig, collected: Collected | None = None) -> Network:
    """Returns the untrained network that `encoder` describes. collected: what is known of the training images."""
    return BY_NAME[encoder.family].build(encoder, collected or Collected())


def fit_once(network: Network, train: tf.data.Dataset, seed: int) -> None:
    """Fits what gradients don't train, where there is any, to the first images of `train`, up to FIT_BYTES."""
    if network.fit is not None:
        size = int(np.prod(network.encoder.input_shape[1:]))
        images = train.unbatch().take(max(1, references.FIT_BYTES // (4 * size))).batch(256)
        batches = [np.rint(pixels.numpy() * 255.0).astype(np.uint8) for pixels, _ in images]
        network.fit(np.concatenate(batches), seed)


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
    network: Network,
    train: Any,
    evaluation: Any,
    training: TrainingConfig,
    *,
    steps_per_epoch: int,
    checkpoints: pathlib.Path,
    logs: pathlib.Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    strategy: tf.distribute.Strategy | None = None,
) -> dict[str, list[float]]:
    """Trains `network` by its loss (Adam); returns Keras' history: a value an epoch for the loss and each term.

    train, evaluation: batches of (pixels, target), see families.family.Loss. train is passed over as often as
    `steps_per_epoch` needs. callbacks: further ones of Keras. checkpoints: where an interrupted run left its last
    epoch, and this one leaves its own; emptied at the end. strategy: in whose scope the network was built.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        trainee = Trainee(network)
        # Without XLA: on a CPU it took 1.6 times as long, and it lacks some of the augmentations' operations.
        trainee.compile(keras.optimizers.Adam(learning_rate(training, steps_per_epoch)), jit_compile=False)
    every = [
        keras.callbacks.BackupAndRestore(str(checkpoints), delete_checkpoint=True),
        keras.callbacks.TensorBoard(str(logs), update_freq="epoch"),
        _Progress(training.epochs),
        *callbacks,
    ]
    if training.patience:
        every.append(keras.callbacks.EarlyStopping(patience=training.patience, restore_best_weights=True, verbose=1))
    history = trainee.fit(
        train.repeat().map(_for_trainee),
        validation_data=evaluation.map(_for_trainee),
        epochs=training.epochs,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,  # the dataset shuffles
        callbacks=every,
        verbose=0,
    ).history
    return {name: [float(value) for value in values] for name, values in history.items()}


def _for_trainee(pixels: tf.Tensor, target: tf.Tensor) -> tuple[Any, tf.Tensor]:
    return (pixels, target), target


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
