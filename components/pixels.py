"""From canonical bytes to the pixels that a network sees: in training, in the export, and in every measurement."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Pixels = npt.NDArray[np.uint8]

FITS = ("stretch", "pad")


@dataclasses.dataclass(frozen=True)
class PixelShape:
    """What an encoder resizes to. height, width: pixels. channels: 1 or 3. fit: of FITS."""

    height: int
    width: int
    channels: int
    fit: str = "stretch"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.channels not in (1, 3):
            raise ValueError(f"an image must have pixels and 1 or 3 channels, got {self}.")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {FITS}, got {self.fit!r}.")

    @property
    def size(self) -> int:
        """Numbers in an image."""
        return self.height * self.width * self.channels


def decode_pixels(images: Sequence[bytes], shape: PixelShape) -> Pixels:
    """Returns uint8 `[N, H, W, C]` for canonical images: resized (bilinear, antialiased), rounded, as encoders do."""
    return _decoder(shape)(tf.constant(list(images), tf.string)).numpy()


def reduce_pixels(pixels: Pixels, side: int) -> Pixels:
    """Returns the images with a longest side of at most `side` pixels (each the mean of an area): uint8."""
    height, width = pixels.shape[1:3]
    longest = max(height, width)
    if longest <= side or not len(pixels):
        return pixels
    size = [max(1, round(height * side / longest)), max(1, round(width * side / longest))]
    blocks = [pixels[start : start + 256] for start in range(0, len(pixels), 256)]
    small = [tf.image.resize(block, size, method="area") for block in blocks]
    return np.concatenate([np.rint(block).astype(np.uint8) for block in small])


def decode(image_bytes: tf.Tensor, shape: PixelShape) -> tf.Tensor:
    """Returns uint8 `[N, H, W, C]` for canonical images `[N]`, in the graph.

    Resized bilinearly with antialiasing and rounded to 8 bits, so that a cached image and one just decoded are the
    same to the last bit. `stretch` changes the aspect ratio; `pad` keeps it and adds black.
    """

    def decode_one(data: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(data, channels=shape.channels, expand_animations=False)
        image.set_shape([None, None, shape.channels])
        image = tf.cast(image, tf.float32)
        # An image of the right size already is left alone, to the bit, by either.
        if shape.fit == "pad":
            resized = tf.image.resize_with_pad(image, shape.height, shape.width, antialias=True)
        else:
            resized = tf.image.resize(image, [shape.height, shape.width], antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)

    spec = tf.TensorSpec([shape.height, shape.width, shape.channels], tf.uint8)
    images = tf.convert_to_tensor(image_bytes)
    return tf.map_fn(decode_one, images, fn_output_signature=spec, parallel_iterations=16)


@functools.lru_cache(maxsize=4)
def _decoder(shape: PixelShape) -> Any:
    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(lambda images: decode(images, shape), input_signature=signature)
