"""Writes the encoder SavedModel: from canonical bytes to embedding, everything inside the graph."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from components import features
from pipeline.families import Network

TRAINING_INFO = "assets.extra/lookalike_training.json"
_NOTHING = 1e-12


class ServedEncoder(tf.Module):
    """The signatures of an encoder over `to_pixels` (canonical bytes `[N]` -> float32 `[N, H, W, C]` in [0, 255])."""

    def __init__(self, network: Network, to_pixels: Callable[[tf.Tensor], tf.Tensor], assets: Any) -> None:
        super().__init__()
        self._to_pixels = to_pixels
        # What `to_pixels` needs to be saved with.
        self.assets = assets
        self._network = _Untracked(network)
        # The raw variables instead of the Keras objects: TF Serving restores through the session loader, and that
        # doesn't find variables that are tracked by a Keras 3 model.
        served = (network.encoder, network.decoder, network.activation)
        variables = [variable for model in served if model is not None for variable in model.variables]
        self.raw_variables = [v._value for v in {id(variable): variable for variable in variables}.values()]

    def signatures(self) -> dict[str, Any]:
        """Returns name -> concrete function, for what the network can do."""
        network = self._network.network
        found = {
            "serving_default": _takes(self.embed, "image_bytes"),
            "examples": _takes(self.evaluate, "examples"),
        }
        if network.decoder is not None:
            found["reconstruct"] = _takes(self.reconstruct, "image_bytes")
        if network.activation is not None:
            found["hash"] = _takes(self.hash, "image_bytes")
        return found

    def embed(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """`serving_default`: embedding float32 `[N, D]`, L2-normalised. Of binary families its signs are the code."""
        return {"embedding": self._embedding(self._pixels(image_bytes))}

    def reconstruct(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """`reconstruct`: image uint8 `[N, H, W, C]`, error float32 `[N]`: mean squared error of pixels in [0, 1]."""
        pixels = self._pixels(image_bytes)
        decoded = self._decoded(self._latent(pixels))
        image = tf.cast(tf.round(decoded * 255.0), tf.uint8)
        return {"image": image, "error": _mse(pixels, decoded)}

    def hash(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """`hash`: code uint8 `[N, D/8]`, the first bit the highest of the first byte, as numpy.unpackbits reads it.

        activation: float32 `[N, D]`, of which the code holds the signs; the embedding before it is normalised.
        """
        of_code = self._network.network.activation
        assert of_code is not None
        activation = of_code(self._pixels(image_bytes), training=False)
        return {"code": packed(activation), "activation": activation}

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """`examples`: embedding float32 `[N, D]` and, where the family reconstructs, mse float32 `[N]`, for TFMA."""
        spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
        pixels = self._pixels(tf.io.parse_example(examples, spec)[features.IMAGE])
        found = {"embedding": self._embedding(pixels)}
        if self._network.network.decoder is not None:
            found["mse"] = _mse(pixels, self._decoded(self._latent(pixels)))
        return found

    def _pixels(self, image_bytes: tf.Tensor) -> tf.Tensor:
        return self._to_pixels(image_bytes) / 255.0

    def _decoded(self, latent: tf.Tensor) -> tf.Tensor:
        decoder = self._network.network.decoder
        assert decoder is not None
        return decoder(latent, training=False)

    def _embedding(self, pixels: tf.Tensor) -> tf.Tensor:
        # A code of bits is drawn from, and found by; what is served ranks finer than it can.
        network = self._network.network
        return normalised((network.activation or network.encoder)(pixels, training=False))

    def _latent(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._network.network.encoder(pixels, training=False)


class _Untracked:
    """Holds Keras models where tf.Module doesn't look for variables."""

    def __init__(self, network: Network) -> None:
        self.network = network


def normalised(latent: tf.Tensor) -> tf.Tensor:
    """Returns rows of unit length, float32 `[N, D]`. Nothing at all (the pixels of black) becomes a diagonal."""
    length = tf.norm(latent, axis=1, keepdims=True)
    # NaN is not below anything, and stays NaN for the evaluation to find.
    nothing = length <= _NOTHING
    diagonal = tf.ones_like(latent) / tf.sqrt(tf.cast(tf.shape(latent)[1], tf.float32))
    return tf.where(nothing, diagonal, latent / tf.where(nothing, 1.0, length))


def packed(activation: tf.Tensor) -> tf.Tensor:
    """Returns the signs of float32 `[N, B]` as bytes, uint8 `[N, B/8]`: 1 where the activation isn't negative."""
    bits = tf.reshape(tf.cast(activation >= 0.0, tf.int32), [-1, activation.shape[1] // 8, 8])
    return tf.cast(tf.reduce_sum(bits * [128, 64, 32, 16, 8, 4, 2, 1], axis=2), tf.uint8)


def _mse(pixels: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.square(pixels - decoded), axis=[1, 2, 3])


def _takes(function: Callable[[tf.Tensor], dict[str, tf.Tensor]], argument: str) -> Any:
    return tf.function(function).get_concrete_function(tf.TensorSpec([None], tf.string, name=argument))


def export(
    network: Network,
    to_pixels: Callable[[tf.Tensor], tf.Tensor],
    assets: Any,
    folder: pathlib.Path,
    info: dict[str, Any],
) -> None:
    """Writes the SavedModel and `info` (as assets.extra/lookalike_training.json) to `folder`."""
    module = ServedEncoder(network, to_pixels, assets)
    tf.saved_model.save(module, str(folder), signatures=module.signatures())
    target = folder / TRAINING_INFO
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(info, indent=1, sort_keys=True) + "\n")
