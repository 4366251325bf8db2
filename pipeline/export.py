"""Writes the encoder SavedModel: from canonical bytes to embedding, everything inside the graph."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components import features
from pipeline.autoencoders import Autoencoder

TRAINING_INFO = "assets.extra/lookalike_training.json"


class ServedEncoder(tf.Module):
    """The signatures of an encoder over `to_pixels` (canonical bytes `[N]` -> float32 `[N, H, W, C]` in [0, 255])."""

    def __init__(self, autoencoder: Autoencoder, to_pixels: Callable[[tf.Tensor], tf.Tensor], assets: Any) -> None:
        super().__init__()
        self._to_pixels = to_pixels
        # What `to_pixels` needs to be saved with.
        self.assets = assets
        self._encoder = _Untracked(autoencoder.encoder)
        self._decoder = _Untracked(autoencoder.decoder)
        # The raw variables instead of the Keras objects: TF Serving restores through the session loader, and that
        # doesn't find variables that are tracked by a Keras 3 model.
        self.raw_variables = [
            variable._value for model in (autoencoder.encoder, autoencoder.decoder) for variable in model.variables
        ]

    def embed(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """`serving_default`: embedding float32 `[N, D]`, L2-normalised."""
        return {"embedding": _normalised(self._latent(self._pixels(image_bytes)))}

    def reconstruct(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """`reconstruct`: image uint8 `[N, H, W, C]`, error float32 `[N]`: mean squared error of pixels in [0, 1]."""
        pixels = self._pixels(image_bytes)
        decoded = self._decoder.model(self._latent(pixels), training=False)
        image = tf.cast(tf.round(decoded * 255.0), tf.uint8)
        return {"image": image, "error": _mse(pixels, decoded)}

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """`examples`: mse float32 `[N]`, embedding float32 `[N, D]`, for TFMA."""
        spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
        pixels = self._pixels(tf.io.parse_example(examples, spec)[features.IMAGE])
        latent = self._latent(pixels)
        decoded = self._decoder.model(latent, training=False)
        return {"mse": _mse(pixels, decoded), "embedding": _normalised(latent)}

    def _pixels(self, image_bytes: tf.Tensor) -> tf.Tensor:
        return self._to_pixels(image_bytes) / 255.0

    def _latent(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._encoder.model(pixels, training=False)


class _Untracked:
    """Holds a Keras model where tf.Module doesn't look for variables."""

    def __init__(self, model: Any) -> None:
        self.model = model


def _normalised(latent: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(latent, axis=1, epsilon=1e-12)


def _mse(pixels: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(pixels - decoded), axis=[1, 2, 3])


def export(
    autoencoder: Autoencoder,
    to_pixels: Callable[[tf.Tensor], tf.Tensor],
    assets: Any,
    folder: pathlib.Path,
    info: dict[str, Any],
) -> None:
    """Writes the SavedModel and `info` (as assets.extra/lookalike_training.json) to `folder`."""
    module = ServedEncoder(autoencoder, to_pixels, assets)
    strings = tf.TensorSpec([None], tf.string, name="image_bytes")
    signatures = {
        "serving_default": tf.function(module.embed).get_concrete_function(strings),
        "reconstruct": tf.function(module.reconstruct).get_concrete_function(strings),
        "examples": tf.function(module.evaluate).get_concrete_function(
            tf.TensorSpec([None], tf.string, name="examples")
        ),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    target = folder / TRAINING_INFO
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(info, indent=1, sort_keys=True) + "\n")
