"""The networks: from an image to its embedding, and back."""

import dataclasses
import math
from collections.abc import Sequence

import keras


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """An encoder and its decoder. `B` is the batch.

    encoder: pixels float32 `[B, H, W, C]` in [0, 1] -> embedding float32 `[B, D]`, not normalised.
    decoder: such an embedding -> pixels float32 `[B, H, W, C]` in [0, 1].
    whole: pixels -> reconstructed pixels, what is trained.
    """

    encoder: keras.Model
    decoder: keras.Model
    whole: keras.Model


def convolutional(
    *,
    height: int,
    width: int,
    channels: int,
    dimension: int,
    filters: Sequence[int] = (32, 64),
    mean: Sequence[float] | None = None,
    variance: Sequence[float] | None = None,
) -> Autoencoder:
    """Returns the convolutional autoencoder of the paper's lineage (A. Rosebrock, PyImageSearch, 2020).

    Convolutions of stride 2 with LeakyReLU 0.2 and batch normalisation, a dense latent layer, and the mirror image of
    it. Where a side can't be halved evenly the decoder makes a larger image and cuts it. mean, variance: `[C]` of the
    training pixels; given, the encoder standardises its input by them.
    """
    pixels = keras.Input((height, width, channels), name="pixels")
    x = pixels
    if mean is not None and variance is not None:
        floor = [max(float(v), 1e-6) for v in variance]
        x = keras.layers.Normalization(mean=[float(m) for m in mean], variance=floor, name="standardise")(x)
    for number, count in enumerate(filters):
        x = keras.layers.Conv2D(count, 3, strides=2, padding="same", name=f"down_{number}")(x)
        x = keras.layers.LeakyReLU(negative_slope=0.2)(x)
        x = keras.layers.BatchNormalization()(x)
    embedding = keras.layers.Dense(dimension, name="embedding")(keras.layers.Flatten()(x))
    encoder = keras.Model(pixels, embedding, name="encoder")

    rows, columns = _halved(height, len(filters)), _halved(width, len(filters))
    latent = keras.Input((dimension,), name="latent")
    x = keras.layers.Dense(rows * columns * filters[-1])(latent)
    x = keras.layers.Reshape((rows, columns, filters[-1]))(x)
    for number, count in enumerate(reversed(filters)):
        x = keras.layers.Conv2DTranspose(count, 3, strides=2, padding="same", name=f"up_{number}")(x)
        x = keras.layers.LeakyReLU(negative_slope=0.2)(x)
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2DTranspose(channels, 3, padding="same", activation="sigmoid", name="pixels")(x)
    spare = (rows * 2 ** len(filters) - height, columns * 2 ** len(filters) - width)
    if any(spare):
        x = keras.layers.Cropping2D(((0, spare[0]), (0, spare[1])))(x)
    decoder = keras.Model(latent, x, name="decoder")
    return Autoencoder(encoder, decoder, keras.Model(pixels, decoder(encoder(pixels)), name="autoencoder"))


def _halved(side: int, times: int) -> int:
    return math.ceil(side / 2**times)
