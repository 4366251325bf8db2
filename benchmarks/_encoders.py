"""Small real encoders for the benchmarks: the project's own network, untrained, exported and completed as always.

What an encoder has learned changes neither how long it takes nor whether two of them are told apart.
"""

import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.pixels import PixelShape, decode
from components.validation.complete_encoder import complete, warmup_requests
from pipeline import export, trainer
from pipeline.encoder_config import EncoderConfig
from serving.release.encoder_info import EncoderInfo, Probe

MODEL = "encoder"
PROBES = 3
DIGIT = PixelShape(28, 28, 1)
PHOTO = PixelShape(64, 64, 3)


class SavedEncoder:
    """A SavedModel in this process. `N` images, `D` dimensions."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._model = tf.saved_model.load(str(folder))
        self._embed = self._model.signatures["serving_default"]

    def __call__(self, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Returns the embeddings of canonical images: float32 `[N, D]`."""
        return self._embed(image_bytes=tf.constant(list(images), tf.string))["embedding"].numpy()

    def in_batches(self, images: Sequence[bytes], size: int = 64) -> npt.NDArray[np.float32]:
        """Returns the same, a batch at a time."""
        return np.concatenate([self(images[start : start + size]) for start in range(0, len(images), size)])


def write_encoder(
    folder: pathlib.Path, images: Sequence[bytes], *, dimension: int, seed: int = 0, shape: PixelShape = DIGIT
) -> SavedEncoder:
    """Writes a complete encoder. images: canonical, the first are its probe. seed: of its weights."""
    keras.utils.set_random_seed(seed)
    network = trainer.build(
        EncoderConfig(height=shape.height, width=shape.width, channels=shape.channels, dimension=dimension)
    )

    def to_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
        return tf.cast(decode(image_bytes, shape), tf.float32)

    export.export(network, to_pixels, None, folder, {"benchmark": seed})
    encoder = SavedEncoder(folder)
    probes = list(images[:PROBES])
    info = EncoderInfo(
        dimension=dimension,
        height=shape.height,
        width=shape.width,
        channels=shape.channels,
        family="convolutional",
        normalised=True,
        metrics={},
        data_fingerprint="benchmark",
        probes=tuple(Probe(image, row) for image, row in zip(probes, encoder(probes), strict=True)),
    )
    complete(folder, info, warmup_requests(MODEL, probes))
    return encoder
