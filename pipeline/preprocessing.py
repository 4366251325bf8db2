"""From canonical bytes to the pixels that a network sees; TFX's Transform runs it, and it is part of every export."""

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components import features
from components.pixels import PixelShape, decode

PIXELS = "pixels"
MEAN = "channel_mean"
VARIANCE = "channel_variance"


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Transform's callback: pixels, and the channels' mean and variance.

    pixels: float32 `[N, H, W, C]`, whole numbers in [0, 255]. Mean and variance: float32 `[N, C]` of pixels in [0, 1],
    the same in every row.
    """
    image_bytes = inputs[features.IMAGE]
    if isinstance(image_bytes, tf.SparseTensor):
        image_bytes = tf.sparse.to_dense(image_bytes, default_value="")
    image_bytes = tf.reshape(image_bytes, [-1])
    shape = PixelShape(*(custom_config[name] for name in ("height", "width", "channels", "fit")))
    pixels = tf.cast(decode(image_bytes, shape), tf.float32)
    flat = tf.reshape(pixels / 255.0, [-1, shape.channels])
    mean = tft.mean(flat, reduce_instance_dims=False)
    variance = tft.var(flat, reduce_instance_dims=False)
    rows = tf.ones([tf.shape(image_bytes)[0], 1])
    return {PIXELS: pixels, MEAN: rows * mean, VARIANCE: rows * variance}
