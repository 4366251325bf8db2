"""Changes that leave an image the same thing to look for, drawn for each image of a batch, in the graph.

In the shapes `B` is the batch. Images are float32 `[B, H, W, C]` in [0, 1].
"""

import math
from typing import Any

import tensorflow as tf

from pipeline.encoder_config import AugmentOptions

_ELASTIC_GRID = 4  # points a side that move on their own; between them the movement is interpolated (bicubic)


def augment(images: tf.Tensor, options: AugmentOptions) -> tf.Tensor:
    """Returns every image changed on its own. What enters from outside repeats the border."""
    changed = warp(images, *_movement(images, options)) if _moves(options) else images
    if options.flip:
        changed = _flipped(changed)
    changed = _recoloured(changed, options)
    if options.erase:
        changed = _erased(changed, options.erase)
    if options.noise:
        stddev = tf.random.uniform([tf.shape(images)[0], 1, 1, 1], 0.0, options.noise)
        changed += stddev * tf.random.normal(tf.shape(images))
    return tf.clip_by_value(changed, 0.0, 1.0)


def warp(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Returns the images read at `rows`, `columns` (float32 `[B, H, W]`, pixels), between pixels bilinearly."""
    batch, height, width, channels = tf.unstack(tf.shape(images))
    rows = tf.clip_by_value(rows, 0.0, tf.cast(height - 1, tf.float32))
    columns = tf.clip_by_value(columns, 0.0, tf.cast(width - 1, tf.float32))
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    top, left = tf.cast(top, tf.int32), tf.cast(left, tf.int32)
    bottom, far = tf.minimum(top + 1, height - 1), tf.minimum(left + 1, width - 1)
    flat = tf.reshape(images, [batch * height * width, channels])
    first = (tf.range(batch) * height * width)[:, None, None]

    def read(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.gather(flat, first + row * width + column)

    above = read(top, left) * (1.0 - right) + read(top, far) * right
    below = read(bottom, left) * (1.0 - right) + read(bottom, far) * right
    return tf.ensure_shape(above * (1.0 - down) + below * down, images.shape)


def _moves(options: AugmentOptions) -> bool:
    return any((options.shift, options.zoom, options.crop, options.rotation, options.shear, options.elastic))


def _movement(images: tf.Tensor, options: AugmentOptions) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where each pixel comes from: an affine map about the centre, and an elastic one (Simard et al., 2003)."""
    batch, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]

    def drawn(limit: float) -> tf.Tensor:
        return tf.random.uniform([batch, 1, 1], -limit, limit)

    angle, shear = drawn(math.radians(options.rotation)), tf.tan(drawn(math.radians(options.shear)))
    # A zoom of 1/2 up and of 2 down are as likely: evenly in the logarithm.
    grow = -math.log1p(-options.zoom)
    tall, wide = tf.exp(drawn(grow)), tf.exp(drawn(grow))
    y = (tf.range(height, dtype=tf.float32) - (height - 1) / 2.0)[None, :, None]
    x = (tf.range(width, dtype=tf.float32) - (width - 1) / 2.0)[None, None, :]
    x = x + shear * y
    rows = tall * (tf.cos(angle) * y - tf.sin(angle) * x) + (height - 1) / 2.0 + drawn(options.shift * height)
    columns = wide * (tf.sin(angle) * y + tf.cos(angle) * x) + (width - 1) / 2.0 + drawn(options.shift * width)
    if options.crop:
        # A window anywhere in the image (Szegedy et al., "Going deeper with convolutions", 2015, section 6).
        kept = 1.0 - tf.random.uniform([batch, 1, 1], 0.0, options.crop)
        spare = (1.0 - kept) / 2.0
        rows = kept * (rows - (height - 1) / 2.0) + (height - 1) / 2.0 + spare * (height - 1) * drawn(1.0)
        columns = kept * (columns - (width - 1) / 2.0) + (width - 1) / 2.0 + spare * (width - 1) * drawn(1.0)
    if options.elastic:
        points = tf.random.normal([batch, _ELASTIC_GRID, _ELASTIC_GRID, 2])
        field = tf.image.resize(points, [height, width], method="bicubic")
        rows += options.elastic * height * field[..., 0]
        columns += options.elastic * width * field[..., 1]
    return rows, columns


def _flipped(images: tf.Tensor) -> tf.Tensor:
    chosen = tf.random.uniform([tf.shape(images)[0], 1, 1, 1]) < 0.5
    return tf.where(chosen, tf.reverse(images, axis=[2]), images)


def _recoloured(images: tf.Tensor, options: AugmentOptions) -> tf.Tensor:
    def drawn(limit: float) -> tf.Tensor:
        return tf.random.uniform([tf.shape(images)[0], 1, 1, 1], -limit, limit)

    if images.shape[-1] == 3 and (options.saturation or options.grey):
        grey = tf.image.rgb_to_grayscale(images)
        keep = 1.0 + drawn(options.saturation)
        if options.grey:
            keep = tf.where(tf.random.uniform(tf.shape(keep)) < options.grey, 0.0, keep)
        images = grey + (images - grey) * keep
    if options.contrast:
        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        images = mean + (images - mean) * (1.0 + drawn(options.contrast))
    return images * (1.0 + drawn(options.brightness)) if options.brightness else images


def _erased(images: tf.Tensor, share: float) -> tf.Tensor:
    """Blanks a rectangle of up to `share` of each side with the image's mean (Zhong et al., 2020)."""
    batch = tf.shape(images)[0]

    def inside(side: Any) -> tf.Tensor:
        length = tf.random.uniform([batch, 1], 0.0, share) * side
        start = tf.random.uniform([batch, 1]) * (side - length)
        at = tf.range(side, dtype=tf.float32)[None]
        return (at >= start) & (at < start + length)

    blank = inside(images.shape[1])[:, :, None, None] & inside(images.shape[2])[:, None, :, None]
    return tf.where(blank, tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True), images)
