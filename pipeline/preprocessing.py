"""From canonical bytes to the pixels that a network sees; TFX's Transform runs it, and it is part of every export."""

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components import features

PIXELS = "pixels"
MEAN = "channel_mean"
VARIANCE = "channel_variance"


def decode(image_bytes: tf.Tensor, *, height: int, width: int, channels: int, fit: str) -> tf.Tensor:
    """Returns float32 `[N, height, width, channels]` of whole numbers in [0, 255] for canonical images `[N]`.

    The result is rounded to 8 bits, so that a cached image and one just decoded are the same to the last bit.
    fit: `stretch` changes the aspect ratio, `pad` keeps it and adds black.
    """

    def decode_one(data: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(data, channels=channels, expand_animations=False)
        image.set_shape([None, None, channels])
        image = tf.cast(image, tf.float32)
        size = [height, width]
        if fit == "pad":
            resized = tf.image.resize_with_pad(image, height, width, antialias=True)
        else:
            resized = tf.image.resize(image, size, antialias=True)
        # An image of the right size already is left alone, to the bit, by resize.
        return tf.clip_by_value(tf.round(resized), 0.0, 255.0)

    spec = tf.TensorSpec([height, width, channels], tf.float32)
    return tf.map_fn(decode_one, tf.convert_to_tensor(image_bytes), fn_output_signature=spec, parallel_iterations=16)


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Transform's callback: pixels as `decode` returns them, and per-channel mean and variance `[N, C]` in [0, 1]."""
    image_bytes = inputs[features.IMAGE]
    if isinstance(image_bytes, tf.SparseTensor):
        image_bytes = tf.sparse.to_dense(image_bytes, default_value="")
    image_bytes = tf.reshape(image_bytes, [-1])
    channels = int(custom_config["channels"])
    pixels = decode(
        image_bytes,
        height=int(custom_config["height"]),
        width=int(custom_config["width"]),
        channels=channels,
        fit=str(custom_config["fit"]),
    )
    flat = tf.reshape(pixels / 255.0, [-1, channels])
    mean = tft.mean(flat, reduce_instance_dims=False)
    variance = tft.var(flat, reduce_instance_dims=False)
    rows = tf.ones([tf.shape(image_bytes)[0], 1])
    return {PIXELS: pixels, MEAN: rows * mean, VARIANCE: rows * variance}
