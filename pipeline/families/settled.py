"""What is done to the embedding of `ours` once it is trained: evened out, joined by principal components, turned.

None of it needs labels, and all of it is linear but for lengths: it is in the graph, and its weights are set from
training images. In the shapes `B` is the batch, `D` the embedding, `L` what is learned of it, `K` the components.
"""

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.decomposition import PCA

from components.evaluation import references
from pipeline.encoder_config import EncoderConfig
from pipeline.families.descriptors import described
from pipeline.families.family import Network

_BATCH = 1_000
# Of the mean variance: what hardly varies is not blown up. And where nothing varies at all.
_SMALLEST, _NOTHING = 1e-3, 1e-12


@keras.saving.register_keras_serializable("lookalike")
class Direction(keras.layers.Layer):
    """Rows of length sqrt(L): numbers of about 1, of which only the direction is left."""

    def call(self, rows: Any) -> Any:
        """Returns float32 `[B, L]`."""
        return tf.math.l2_normalize(rows, axis=1, epsilon=1e-12) * math.sqrt(rows.shape[1])


def settled_encoder(config: EncoderConfig, learned: keras.Model) -> keras.Model:
    """Returns pixels -> embedding `[B, D]`: what `learned` gives (pixels -> `[B, L]`), and K components beside it.

    Until `settle` has set its weights they are those that Keras gives any layer.
    """
    options = config.ours
    image = keras.Input((config.height, config.width, config.channels), name="pixels")
    x = _frozen(learned.output_shape[1], "evened")(learned(image))
    if options.components:
        seen = described(config, image) if options.components_of == "descriptors" else image
        found = _frozen(options.components, "components")(keras.layers.Flatten()(seen))
        beside = keras.layers.UnitNormalization()(found)
        x = keras.layers.Concatenate()([x, keras.layers.Rescaling(math.sqrt(options.components_weight))(beside)])
    return keras.Model(image, _frozen(config.dimension, "turned")(x), name="encoder")


def settled_decoder(config: EncoderConfig, drawing: keras.Model) -> keras.Model:
    """Returns embedding `[B, D]` -> pixels, by `drawing` (what was learned `[B, L]` -> pixels)."""
    latent = keras.Input((config.dimension,), name="latent")
    return keras.Model(latent, drawing(_frozen(drawing.input_shape[1], "back")(latent)), name="decoder")


def settle(network: Network, images: npt.NDArray[np.uint8], seed: int, *, whiten: float) -> None:
    """Sets those weights from images uint8 `[N, H, W, C]`.

    What is learned is centred, its principal axes scaled by variance^(-whiten / 2) (0 leaves them, 1 whitens: what
    views share is often in few of them; Su, Cao, Liu, Ou, "Whitening sentence representations", 2021), and its length
    brought to 1 in the mean square. At the end all is turned so that the signs lose the least (Gong and Lazebnik,
    "Iterative Quantization", 2011), which no cosine notices: the signs are codes of D bits.
    """
    assert network.decoder is not None
    encoder, learned = network.encoder, network.encoder.get_layer("learned")
    rows = _outputs(learned, images).astype(np.float64)
    mean = rows.mean(axis=0)
    variance, axes = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    variance = np.maximum(variance, max(_SMALLEST * variance.mean(), _NOTHING))
    scale = variance ** (-whiten / 2.0)
    scale /= math.sqrt(float((scale**2 * variance).sum()))
    evened = axes * scale
    encoder.get_layer("evened").set_weights([evened, -mean @ evened])

    names = {layer.name for layer in encoder.layers}
    if "components" in names:
        layer = encoder.get_layer("components")
        seen = _outputs(keras.Model(encoder.input, layer.input), images)
        found = PCA(min(layer.units, *seen.shape), svd_solver="auto", random_state=seed)
        with np.errstate(invalid="ignore", divide="ignore"):  # of one image, or equal ones: the variance is 0
            found.fit(seen)
        components = np.zeros((layer.units, seen.shape[1]), np.float32)
        components[: len(found.components_)] = found.components_
        layer.set_weights([components.T, -components @ found.mean_])

    turned = encoder.get_layer("turned")
    joined = _outputs(keras.Model(encoder.input, turned.input), images)
    middle = joined.mean(axis=0)
    turn = references.itq_rotation(joined - middle, seed=seed)
    turned.set_weights([turn, -middle @ turn])
    # And back, for the decoder: turned the other way, and of that the learned part as it was.
    undo = np.linalg.inv(evened)
    back = turn.T[:, : len(mean)] @ undo
    network.decoder.get_layer("back").set_weights([back, middle[: len(mean)] @ undo + mean])


def _frozen(units: int, name: str) -> keras.layers.Layer:
    return keras.layers.Dense(units, name=name, trainable=False)


def _outputs(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns what the model makes of images, float32 `[N, n]`."""
    of = tf.function(lambda pixels: model(pixels, training=False), reduce_retracing=True)
    starts = range(0, len(images), _BATCH)
    blocks = [of(images[start : start + _BATCH].astype(np.float32) / np.float32(255.0)).numpy() for start in starts]
    return np.concatenate(blocks)
