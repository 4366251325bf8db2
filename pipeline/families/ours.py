"""Our family: an autoencoder whose embedding also has to agree about two views of one image."""

from typing import Any

import keras
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families.agreement import barlow_twins, info_nce, nt_xent, vicreg
from pipeline.families.augment import augment
from pipeline.families.bodies import decoder_body, encoder_body
from pipeline.families.family import Collected, Network
from pipeline.families.reconstruction import RECONSTRUCTION, error

AGREEMENT = "agreement"


def ours(config: EncoderConfig, collected: Collected) -> Network:
    """Returns an autoencoder trained on two augmented views: each is drawn again, and both are to agree.

    Reconstruction alone keeps what fills the picture; agreement alone keeps only what all views share. The decoder
    draws the view that its embedding is of, so that the embedding may still hold where and how something lies.
    """
    options = config.ours
    encoder, decoder = encoder_body(config, collected), decoder_body(config)
    projection = _projection(config.dimension, options.projection)
    memory = Memory(options.neighbors, projection.output_shape[-1]) if options.neighbors else None

    def agreement(first: tf.Tensor, second: tf.Tensor, *, training: bool) -> tf.Tensor:
        if options.agreement == "barlow_twins":
            return barlow_twins(first, second)
        if options.agreement == "vicreg":
            return vicreg(first, second)
        if memory is None:
            return nt_xent(first, second, options.temperature)
        near = memory(first)
        both = info_nce(near, second, options.temperature) + info_nce(memory(second), first, options.temperature)
        if training:
            memory.remember(first)
        return both / 2.0

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        first, second = augment(pixels, config.augment), augment(pixels, config.augment)
        views = tf.concat([first, second], 0)
        embedding = encoder(views, training=training)
        drawn = error(config, views, decoder(embedding, training=training))
        held = agreement(*tf.split(projection(embedding, training=training), 2), training=training)
        return {RECONSTRUCTION: options.reconstruction * drawn, AGREEMENT: options.weight * held}

    others = (projection, keras.Sequential([memory], name="memories")) if memory is not None else (projection,)
    return Network(encoder, decoder, loss, (RECONSTRUCTION, AGREEMENT), others=others)


class Memory(keras.layers.Layer):
    """The last embeddings seen, float32 `[size, D]` of unit length, and which of them is nearest to a view."""

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__(name="memory")
        start = keras.initializers.RandomNormal()
        self.kept = self.add_weight(shape=(size, dimension), initializer=start, trainable=False, name="kept")
        self.built = True

    def call(self, views: Any) -> Any:
        """Returns what is kept nearest to each view, by cosine: float32 `[B, D]`, without a gradient."""
        similarity = tf.matmul(tf.math.l2_normalize(views, axis=1), self.kept, transpose_b=True)
        return tf.stop_gradient(tf.gather(self.kept, tf.argmax(similarity, axis=1)))

    def remember(self, views: Any) -> None:
        """Keeps these, and forgets as many of the oldest."""
        new = tf.stop_gradient(tf.math.l2_normalize(views, axis=1))
        self.kept.assign(tf.concat([new, self.kept], 0)[: self.kept.shape[0]])


def _projection(dimension: int, width: int) -> keras.Model:
    """Returns the layers between the embedding and the agreement: none, or two with ReLU and batch normalisation."""
    embedding = keras.Input((dimension,))
    x: Any = keras.layers.Identity()(embedding)
    if width:
        x = keras.layers.Dense(width, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.Dense(width)(x)
    return keras.Model(embedding, x, name="projection")
