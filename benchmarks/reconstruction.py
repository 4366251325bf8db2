"""How well the convolutional autoencoder reconstructs MNIST: the lineage's own recipe beside our schedule.

  make bench NAME=reconstruction IMAGES=mnist/      folders train/ and test/ of PNG files, as in the standard split

The lineage (A. Rosebrock, PyImageSearch, 2020): latent 16, batches of 32, Adam 1e-3 decaying by 1e-3/20 a step, 20
epochs; published validation MSE 0.0067. Ours: the same network and epochs, standardised input, cosine schedule.
The validation MSE is that of the last epoch on the test folder, pixels in [0, 1]. Small: 1,000 of the demo's digits.
"""

import dataclasses
import pathlib
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks._results import Goal, arguments, digits, report
from pipeline import trainer
from pipeline.config import TrainingConfig
from pipeline.encoder_config import EncoderConfig
from pipeline.families import Collected

ENCODER = EncoderConfig(height=28, width=28, channels=1, dimension=16)
RECIPES = {
    "lineage": (
        dataclasses.replace(ENCODER, standardise=False),
        TrainingConfig(epochs=20, batch_size=32, learning_rate=1e-3, schedule="inverse_time"),
        0.0070,
    ),
    "ours": (ENCODER, TrainingConfig(epochs=20, batch_size=64, learning_rate=3e-3, schedule="cosine"), 0.0065),
}


def load(folder: pathlib.Path, limit: int | None = None) -> np.ndarray:
    """Returns the images below a folder as float32 `[N, 28, 28, 1]` in [0, 1]."""
    files = sorted(folder.rglob("*.png"))
    if limit:
        files = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:limit]]
    return np.stack([np.asarray(Image.open(file)) for file in files])[..., None].astype(np.float32) / 255.0


def train(encoder: EncoderConfig, training: TrainingConfig, images: np.ndarray, held_out: np.ndarray) -> list[float]:
    """Returns the validation MSE of each epoch."""
    keras.utils.set_random_seed(training.seed)
    known = Collected(images.mean((0, 1, 2)), images.var((0, 1, 2))) if encoder.standardise else Collected()
    dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images), seed=training.seed)
    dataset = dataset.batch(training.batch_size).map(lambda x: (x, x)).prefetch(2)
    validation = tf.data.Dataset.from_tensor_slices(held_out).batch(256).map(lambda x: (x, x))
    with tempfile.TemporaryDirectory() as scratch:
        return trainer.fit(
            trainer.build(encoder, known),
            dataset,
            validation,
            training,
            steps_per_epoch=-(-len(images) // training.batch_size),
            checkpoints=pathlib.Path(scratch) / "backup",
            logs=pathlib.Path(scratch) / "logs",
        )["val_loss"]


def main() -> None:
    flags = arguments(__doc__, only="one of the recipes")
    if flags.images and flags.scale == "full":
        images, held_out = load(flags.images / "train"), load(flags.images / "test")
    else:
        with tempfile.TemporaryDirectory() as scratch:
            everything = load(digits(pathlib.Path(scratch)), 1200)
        images, held_out = everything[:1000], everything[1000:]
    rows, goals = [], []
    for name, (encoder, training, goal) in RECIPES.items():
        if flags.only not in (None, name):
            continue
        if flags.scale == "small":
            training = dataclasses.replace(training, epochs=2)
        began = time.perf_counter()
        losses = train(encoder, training, images, held_out)
        seconds = time.perf_counter() - began
        rows.append({"recipe": name, "images": len(images), "epochs": len(losses), "validation MSE": losses[-1]})
        rows[-1] |= {"best": min(losses), "s/epoch": seconds / len(losses)}
        if flags.scale == "full":
            # To four decimals, as it was published.
            goals.append(Goal(f"{name}: validation MSE", round(losses[-1], 4), goal, at_most=True))
    report("reconstruction", flags.scale, rows, goals)


if __name__ == "__main__":
    main()
