"""The families that nothing is trained for: raw pixels, principal components, and bits made of those."""

import dataclasses
import functools
import math

import keras
import numpy as np
import numpy.typing as npt

from components.evaluation import references
from pipeline.encoder_config import EncoderConfig
from pipeline.families.binary import Bits
from pipeline.families.family import Collected, Network


def pixels(config: EncoderConfig, collected: Collected) -> Network:
    """Returns the pixels themselves, reduced to a longest side of references.RAW_SIDE: D follows from the images.

    Torralba, Fergus, Freeman, "80 million tiny images", 2008.
    """
    image = keras.Input((config.height, config.width, config.channels), name="pixels")
    scale = min(1.0, references.RAW_SIDE / max(config.height, config.width))
    x = image
    if scale < 1.0:
        size = [max(1, round(side * scale)) for side in (config.height, config.width)]
        # Means of areas, in the graph as in `components.pixels.reduce_pixels`.
        x = AreaResize(*size)(x)
    return Network(keras.Model(image, keras.layers.Flatten()(x), name="encoder"))


@keras.saving.register_keras_serializable("lookalike")
class AreaResize(keras.layers.Layer):
    """Reduces images to height x width, each pixel the mean of an area."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self._size = (height, width)

    def call(self, images: object) -> object:
        """Returns float32 `[B, height, width, C]`."""
        import tensorflow as tf

        return tf.image.resize(images, self._size, method="area")


def pca(config: EncoderConfig, collected: Collected) -> Network:
    """Returns the coordinates on the first principal components (Turk and Pentland, "Eigenfaces", 1991), and back."""
    shape = (config.height, config.width, config.channels)
    image = keras.Input(shape, name="pixels")
    flat = keras.layers.Flatten()(image)
    encoder = keras.Model(image, keras.layers.Dense(config.dimension, name="components")(flat), name="encoder")
    latent = keras.Input((config.dimension,), name="latent")
    x = keras.layers.Dense(math.prod(shape), name="back")(latent)
    x = keras.layers.Reshape(shape)(keras.layers.ReLU(max_value=1.0)(x))
    network = Network(encoder, keras.Model(latent, x, name="decoder"))
    return dataclasses.replace(network, fit=functools.partial(fit_pca, network))


def fit_pca(network: Network, images: npt.NDArray[np.uint8], seed: int) -> None:
    """Sets the weights from images uint8 `[N, H, W, C]`. Where those have fewer components the rest is 0."""
    assert network.decoder is not None
    found = references.fit_pca(images, network.dimension, seed=seed)
    components = np.zeros((network.dimension, found.components.shape[1]), np.float32)
    components[: found.dimension] = found.components
    network.encoder.get_layer("components").set_weights([components.T, -components @ found.mean])
    network.decoder.get_layer("back").set_weights([components, found.mean])


def itq(config: EncoderConfig, collected: Collected) -> Network:
    """Returns bits: the signs of principal components, turned so that they lose the least by it.

    Gong and Lazebnik, "Iterative Quantization", 2011.
    """
    image = keras.Input((config.height, config.width, config.channels), name="pixels")
    turned = keras.layers.Dense(config.dimension, name="components")(keras.layers.Flatten()(image))
    activation = keras.Model(image, turned, name="activation")
    network = Network(keras.Model(image, Bits(name="bits")(turned), name="encoder"), activation=activation)
    return dataclasses.replace(network, fit=functools.partial(fit_itq, network))


def fit_itq(network: Network, images: npt.NDArray[np.uint8], seed: int) -> None:
    """Sets the weights from images uint8 `[N, H, W, C]`."""
    assert network.activation is not None
    found = references.fit_pca(images, network.dimension, seed=seed)
    turn = references.itq_rotation(found.embed(images), seed=seed)
    kernel = np.zeros((found.components.shape[1], network.dimension), np.float32)
    kernel[:, : found.dimension] = found.components.T @ turn
    network.activation.get_layer("components").set_weights([kernel, -found.mean @ kernel])
