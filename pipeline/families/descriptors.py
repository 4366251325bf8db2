"""Hand-made descriptors of colour, texture and shape, in the graph: what learning has to be better than.

In the shapes `B` is the batch. Images are float32 `[B, H, W, C]` in [0, 1]; each descriptor is float32 `[B, n]`.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families.family import Collected, Network
from pipeline.families.fitted import AreaResize

LARGEST = 64  # pixels of the longest side that descriptors are made from
_GREY = (0.2125, 0.7154, 0.0721)  # scikit-image's rgb2gray
_COLOURS, _GREYS = 4, 16  # bins a channel, or of the only one
_ORIENTATIONS, _CELL, _BLOCK = 9, 8, 3  # hog()'s defaults
_RADIUS, _POINTS = 2, 16  # of scikit-image's example "Local Binary Pattern for texture classification"
_PARTS, _EDGE = 4, 11.0 / 255.0
_ANGLES, _LINE_SIDE, _STRONGEST = 18, 32, 5


def descriptors(config: EncoderConfig, collected: Collected) -> Network:
    """Returns the descriptors that `encoder.descriptors` names, each of unit length, one after the other."""
    image = keras.Input((config.height, config.width, config.channels), name="pixels")
    return Network(keras.Model(image, described(config, image), name="encoder"))


def described(config: EncoderConfig, image: Any) -> Any:
    """Returns those descriptors of Keras' input `image`, reduced to a longest side of LARGEST where it is larger."""
    scale = min(1.0, LARGEST / max(config.height, config.width))
    size = (max(1, round(config.height * scale)), max(1, round(config.width * scale)))
    reduced = AreaResize(*size)(image) if scale < 1.0 else image
    return Descriptors(config.descriptors, name="descriptors")(reduced)


@keras.saving.register_keras_serializable("lookalike")
class Descriptors(keras.layers.Layer):
    """Images -> descriptors, each of unit length (or 0 where it finds nothing), concatenated."""

    def __init__(self, names: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self._names = names

    def call(self, images: Any) -> Any:
        """Returns float32 `[B, D]`."""
        found = [tf.math.l2_normalize(BY_NAME[name](images), axis=1, epsilon=1e-12) for name in self._names]
        return tf.concat(found, axis=1)

    def compute_output_shape(self, shape: Any) -> Any:
        """Returns (None, D): D follows from the size of the images."""
        specimen = tf.zeros([1, *shape[1:]])
        return (None, sum(int(BY_NAME[name](specimen).shape[1]) for name in self._names))


def colour_histogram(images: tf.Tensor) -> tf.Tensor:
    """Returns the roots of the shares of pixels in 4 x 4 x 4 parts of RGB (16 of grey): Hellinger's kernel.

    Swain and Ballard, "Color indexing", 1991; Arandjelovic and Zisserman, 2012, for the root.
    """
    bins = _GREYS if images.shape[-1] == 1 else _COLOURS
    parts = tf.cast(tf.minimum(tf.floor(images * bins), bins - 1), tf.int32)
    place = sum(parts[..., channel] * bins**channel for channel in range(images.shape[-1]))
    counts = tf.reduce_sum(tf.one_hot(place, bins ** images.shape[-1]), axis=[1, 2])
    return tf.sqrt(counts / float(images.shape[1] * images.shape[2]))


def hog(images: tf.Tensor) -> tf.Tensor:
    """Returns histograms of oriented gradients (Dalal and Triggs, 2005) as scikit-image's `hog` by default.

    9 orientations, cells of 8 x 8 pixels, blocks of 3 x 3 cells, L2-Hys. Smaller images have blocks of all their cells.
    """
    rows, columns, magnitude = _strongest_gradient(images)
    degrees = tf.math.floormod(tf.atan2(rows, columns) * (180.0 / math.pi), 180.0)
    bins = tf.cast(tf.floor(degrees * (_ORIENTATIONS / 180.0)), tf.int32)
    votes = tf.one_hot(bins, _ORIENTATIONS) * magnitude[..., None]
    down, across = max(1, images.shape[1] // _CELL), max(1, images.shape[2] // _CELL)
    votes = votes[:, : down * _CELL, : across * _CELL]
    cells = tf.nn.avg_pool2d(votes, _CELL, _CELL, "SAME")
    tall, wide = min(_BLOCK, down), min(_BLOCK, across)
    blocks = []
    for r in range(down - tall + 1):
        for c in range(across - wide + 1):
            block = tf.reshape(cells[:, r : r + tall, c : c + wide], [-1, tall * wide * _ORIENTATIONS])
            blocks.append(_of_length_one(tf.minimum(_of_length_one(block), 0.2)))
    return tf.concat(blocks, axis=1)


def lbp(images: tf.Tensor) -> tf.Tensor:
    """Returns the histogram of uniform local binary patterns (Ojala et al., 2002), 16 points at radius 2.

    As scikit-image's `local_binary_pattern(..., method="uniform")`: how many of the points around are not darker,
    where they change at most twice between dark and light, and one value for everything else.
    """
    codes = tf.cast(local_binary_pattern(grey(images)), tf.int32)
    return tf.reduce_mean(tf.one_hot(codes, _POINTS + 2), axis=[1, 2])


def local_binary_pattern(images: tf.Tensor) -> tf.Tensor:
    """Returns the code of each pixel, float32 `[B, H, W]`, for grey images `[B, H, W]`; outside is black."""
    # Grey levels, so that equal ones stay equal: what interpolation leaves in the last bits must not decide.
    levels = tf.round(images * 255.0)
    margin = _RADIUS + 1
    padded = tf.pad(levels, [[0, 0], [margin, margin], [margin, margin]])
    height, width = images.shape[1], images.shape[2]

    def shifted(down: int, right: int) -> tf.Tensor:
        top, left = margin + down, margin + right
        return padded[:, top : top + height, left : left + width]

    lighter = []
    for point in range(_POINTS):
        angle = 2.0 * math.pi * point / _POINTS
        row, column = round(-_RADIUS * math.sin(angle), 5), round(_RADIUS * math.cos(angle), 5)
        top, left = math.floor(row), math.floor(column)
        down, right = row - top, column - left
        above = (1.0 - right) * shifted(top, left) + right * shifted(top, left + 1)
        below = (1.0 - right) * shifted(top + 1, left) + right * shifted(top + 1, left + 1)
        lighter.append((1.0 - down) * above + down * below - levels >= -1e-3)
    signs = tf.cast(tf.stack(lighter, axis=-1), tf.float32)
    changes = tf.reduce_sum(tf.abs(signs[..., 1:] - signs[..., :-1]), axis=-1)
    return tf.where(changes <= 2.0, tf.reduce_sum(signs, axis=-1), float(_POINTS + 1))


def edge_histogram(images: tf.Tensor) -> tf.Tensor:
    """Returns MPEG-7's edge histogram: in 4 x 4 parts, the shares of 5 kinds of edges (Won, Park, Park, 2002)."""
    root = math.sqrt(2.0)
    kinds = [[1, -1, 1, -1], [1, 1, -1, -1], [root, 0, 0, -root], [0, root, -root, 0], [2, -2, -2, 2]]
    filters = tf.constant(np.asarray(kinds, np.float32).T.reshape(2, 2, 1, 5))
    strength = tf.abs(tf.nn.conv2d(grey(images)[..., None], filters, 1, "VALID"))
    strongest = tf.reduce_max(strength, axis=-1) >= _EDGE
    edges = tf.one_hot(tf.argmax(strength, axis=-1), 5) * tf.cast(strongest, tf.float32)[..., None]
    rows = [round(edges.shape[1] * part / _PARTS) for part in range(_PARTS + 1)]
    columns = [round(edges.shape[2] * part / _PARTS) for part in range(_PARTS + 1)]
    parts = [
        tf.reduce_mean(edges[:, rows[r] : rows[r + 1], columns[c] : columns[c + 1]], axis=[1, 2])
        for r in range(_PARTS)
        for c in range(_PARTS)
    ]
    return tf.concat(parts, axis=1)


def line_features(images: tf.Tensor) -> tf.Tensor:
    """Returns how long the lines are in 18 directions: the 5 longest of each, as the Hough transform votes for them.

    After Yuan and Li, 2008, who describe shapes by lines of a Hough transform (Duda et al., 1972). Edges are pixels
    whose gradient is above the image's mean by a standard deviation, at a longest side of 32 pixels.
    """
    height, width = images.shape[1], images.shape[2]
    scale = min(1.0, _LINE_SIDE / max(height, width))
    small = tf.image.resize(grey(images)[..., None], [round(height * scale), round(width * scale)], method="area")
    _, _, magnitude = _strongest_gradient(small)
    flat = tf.reshape(magnitude, [-1, small.shape[1] * small.shape[2]])
    mean, deviation = tf.reduce_mean(flat, 1, keepdims=True), tf.math.reduce_std(flat, 1, keepdims=True)
    edges = tf.cast(flat > mean + deviation, tf.float32)
    votes = tf.matmul(edges, tf.constant(_hough(small.shape[1], small.shape[2])))
    votes = tf.reshape(votes, [-1, _ANGLES, votes.shape[1] // _ANGLES])
    longest = tf.math.top_k(votes, min(_STRONGEST, votes.shape[2])).values
    return tf.reshape(longest, [-1, _ANGLES * longest.shape[2]])


def grey(images: tf.Tensor) -> tf.Tensor:
    """Returns `[B, H, W]`: luminance, or the only channel."""
    return images[..., 0] if images.shape[-1] == 1 else tf.reduce_sum(images * tf.constant(_GREY), axis=-1)


def _strongest_gradient(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns central differences by rows and columns, 0 at the border, of the channel where they are largest."""
    rows = tf.pad(images[:, 2:] - images[:, :-2], [[0, 0], [1, 1], [0, 0], [0, 0]])
    columns = tf.pad(images[:, :, 2:] - images[:, :, :-2], [[0, 0], [0, 0], [1, 1], [0, 0]])
    magnitude = tf.sqrt(tf.square(rows) + tf.square(columns))
    chosen = tf.argmax(magnitude, axis=-1)[..., None]
    return tuple(tf.gather(x, chosen, batch_dims=3)[..., 0] for x in (rows, columns, magnitude))


def _of_length_one(block: tf.Tensor) -> tf.Tensor:
    return block / tf.sqrt(tf.reduce_sum(tf.square(block), axis=1, keepdims=True) + 1e-10)


def _hough(height: int, width: int) -> npt.NDArray[np.float32]:
    """Returns `[height width, angles distances]`: which line of each direction each pixel lies on."""
    y, x = np.mgrid[:height, :width].reshape(2, -1) - np.array([[(height - 1) / 2], [(width - 1) / 2]])
    angles = np.arange(_ANGLES) * math.pi / _ANGLES
    exact = x[:, None] * np.cos(angles) + y[:, None] * np.sin(angles)
    # Upright lines lie on halves: all of their pixels must be rounded the same way.
    distances = np.floor(exact + 0.5 + 1e-6).astype(int)
    reach = int(np.abs(distances).max())
    table = np.zeros((height * width, _ANGLES, 2 * reach + 1), np.float32)
    table[np.arange(height * width)[:, None], np.arange(_ANGLES), distances + reach] = 1.0
    return table.reshape(height * width, -1)


BY_NAME: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "colour": colour_histogram,
    "hog": hog,
    "lbp": lbp,
    "edges": edge_histogram,
    "lines": line_features,
}
