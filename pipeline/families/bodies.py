"""The networks that families share: convolutional and dense encoders, and their mirror images."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from pipeline.encoder_config import EncoderConfig
from pipeline.families.family import Collected


def encoder_body(config: EncoderConfig, collected: Collected, *, own: str = "convolutional") -> keras.Model:
    """Returns pixels -> embedding `[B, D]`, linear at its end. own: the family's body where the config names none."""
    if (config.body or own) == "dense":
        return dense_encoder(config, collected, config.units)
    return convolutional_encoder(config, collected)


def decoder_body(config: EncoderConfig, *, own: str = "convolutional") -> keras.Model:
    """Returns embedding `[B, D]` -> pixels in [0, 1]: the mirror image of that encoder."""
    if (config.body or own) == "dense":
        return dense_decoder(config, config.units)
    return convolutional_decoder(config)


def convolutional_encoder(config: EncoderConfig, collected: Collected) -> keras.Model:
    """Returns the encoder of the paper's lineage (A. Rosebrock, PyImageSearch, 2020), and of Hubens, 2018.

    By default convolutions of stride 2 with LeakyReLU 0.2 and batch normalisation, and a dense latent layer. Pooling
    `max` halves by 2 x 2 maxima instead; latent `mean` averages the last map over its places before the dense layer
    (Lin, Chen, Yan, "Network in network", 2014), `map` takes it as it is.
    """
    pixels, x = _input(config, collected)
    strides = 2 if config.pooling == "stride" else 1
    for number, count in enumerate(config.filters):
        x = keras.layers.Conv2D(count, 3, strides=strides, padding="same", name=f"down_{number}")(x)
        x = _activated(config, x)
        if config.pooling == "max":
            x = keras.layers.MaxPooling2D(2, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x) if config.latent == "mean" else keras.layers.Flatten()(x)
    if config.latent in ("dense", "mean"):
        x = keras.layers.Dense(config.dimension, name="embedding")(x)
    elif x.shape[-1] != config.dimension:
        rows, columns, deep = _smallest(config)
        raise ValueError(
            f"encoder.dimension must be {x.shape[-1]} where encoder.latent is map ({rows} x {columns} x {deep}), "
            f"got {config.dimension}."
        )
    return keras.Model(pixels, x, name="encoder")


def convolutional_decoder(config: EncoderConfig) -> keras.Model:
    """Returns the mirror image. Where a side can't be halved evenly it makes a larger image and cuts it."""
    rows, columns, deep = _smallest(config)
    latent = keras.Input((config.dimension,), name="latent")
    x = latent
    if config.latent != "map":
        x = keras.layers.Dense(rows * columns * deep)(x)
    x = keras.layers.Reshape((rows, columns, deep))(x)
    for number, count in enumerate(reversed(config.filters)):
        if config.pooling == "stride":
            x = keras.layers.Conv2DTranspose(count, 3, strides=2, padding="same", name=f"up_{number}")(x)
            x = _activated(config, x)
        else:
            x = keras.layers.Conv2D(count, 3, padding="same", name=f"up_{number}")(x)
            x = keras.layers.UpSampling2D(2)(_activated(config, x))
    x = keras.layers.Conv2DTranspose(config.channels, 3, padding="same", activation="sigmoid", name="pixels")(x)
    halvings = len(config.filters)
    spare = (rows * 2**halvings - config.height, columns * 2**halvings - config.width)
    if any(spare):
        x = keras.layers.Cropping2D(((0, spare[0]), (0, spare[1])))(x)
    return keras.Model(latent, x, name="decoder")


def dense_encoder(
    config: EncoderConfig, collected: Collected, units: Sequence[int], activation: str | None = None
) -> keras.Model:
    """Returns flattened pixels -> ReLU layers of `units` -> embedding, with `activation` at its end."""
    pixels, x = _input(config, collected)
    x = keras.layers.Flatten()(x)
    for count in units:
        x = keras.layers.Dense(count, activation="relu")(x)
    x = keras.layers.Dense(config.dimension, activation=activation, name="embedding")(x)
    return keras.Model(pixels, x, name="encoder")


def dense_decoder(config: EncoderConfig, units: Sequence[int]) -> keras.Model:
    """Returns its mirror image; units: those of the encoder."""
    shape = (config.height, config.width, config.channels)
    latent = keras.Input((config.dimension,), name="latent")
    x = latent
    for count in reversed(units):
        x = keras.layers.Dense(count, activation="relu")(x)
    x = keras.layers.Dense(math.prod(shape), activation="sigmoid")(x)
    return keras.Model(latent, keras.layers.Reshape(shape)(x), name="decoder")


def _input(config: EncoderConfig, collected: Collected) -> tuple[Any, Any]:
    pixels = keras.Input((config.height, config.width, config.channels), name="pixels")
    if collected.mean is None or collected.variance is None:
        return pixels, pixels
    floor = [max(float(v), 1e-6) for v in collected.variance]
    mean = [float(m) for m in collected.mean]
    return pixels, keras.layers.Normalization(mean=mean, variance=floor, name="standardise")(pixels)


def _activated(config: EncoderConfig, x: Any) -> Any:
    x = keras.layers.LeakyReLU(negative_slope=0.2)(x) if config.activation == "leaky_relu" else keras.layers.ReLU()(x)
    return keras.layers.BatchNormalization()(x) if config.batch_normalisation else x


def _smallest(config: EncoderConfig) -> tuple[int, int, int]:
    """Returns the shape of the last map: rows, columns, filters."""
    times = 2 ** len(config.filters)
    return math.ceil(config.height / times), math.ceil(config.width / times), config.filters[-1]
