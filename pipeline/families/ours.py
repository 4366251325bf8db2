"""Our family: an autoencoder whose embedding also has to agree about two views of one image."""

import dataclasses
import functools
from typing import Any

import keras
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families.agreement import barlow_twins, info_nce, nt_xent, vicreg
from pipeline.families.augment import augment
from pipeline.families.bodies import decoder_body, encoder_body
from pipeline.families.family import Collected, Network
from pipeline.families.reconstruction import RECONSTRUCTION, error
from pipeline.families.settled import Direction, settle, settled_decoder, settled_encoder

AGREEMENT = "agreement"
# Of several devices each sees other images; what one of them remembers is enough.
_ONE = "only_first_replica"


def ours(config: EncoderConfig, collected: Collected) -> Network:
    """Returns an autoencoder that sees two augmented views of an image, which are to agree, and to draw the image.

    Reconstruction alone keeps what fills the picture; agreement alone keeps only what all views share.
    """
    options = config.ours
    rest = config.dimension - options.components
    body = dataclasses.replace(config, dimension=rest, ours=dataclasses.replace(options, components=0))
    learned, drawing = encoder_body(body, collected), decoder_body(body)
    if options.settles:
        learned = keras.Model(learned.input, Direction(name="direction")(learned.output), name="learned")
    projection = _projection(body.dimension, options.projection)
    memory = None
    if options.neighbors:
        memory = Memory(options.neighbors, projection.output_shape[-1], options.neighbors_after)

    def agreement(first: tf.Tensor, second: tf.Tensor, *, training: bool) -> tf.Tensor:
        if options.agreement == "barlow_twins":
            return barlow_twins(first, second)
        if options.agreement == "vicreg":
            return vicreg(first, second)
        if memory is None:
            return nt_xent(first, second, options.temperature)
        forth = info_nce(memory(first), second, options.temperature)
        back = info_nce(memory(second), first, options.temperature)
        if training:
            memory.remember(first)
        return (forth + back) / 2.0

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        views = tf.concat([augment(pixels, config.augment), augment(pixels, config.augment)], 0)
        first, second = tf.split(learned(views, training=training), 2)
        # One of the two is enough to draw from, and for some images: the decoder costs more than the encoder.
        some = tf.cast(tf.math.ceil(options.drawn * tf.cast(tf.shape(pixels)[0], tf.float32)), tf.int32)
        drawn = error(config, pixels[:some], drawing(first[:some], training=training))
        held = tf.split(projection(tf.concat([first, second], 0), training=training), 2)
        return {
            RECONSTRUCTION: options.reconstruction * drawn,
            AGREEMENT: options.weight * agreement(*held, training=training),
        }

    others = (projection, keras.Sequential([memory], name="memories")) if memory is not None else (projection,)
    terms = (RECONSTRUCTION, AGREEMENT)
    if not options.settles:
        return Network(learned, drawing, loss, terms, others=others)
    network = Network(settled_encoder(config, learned), settled_decoder(config, drawing), loss, terms, others=others)
    return dataclasses.replace(network, fit=functools.partial(settle, network, whiten=options.whiten))


class Memory(keras.layers.Layer):
    """The last embeddings seen, float32 `[size, D]` of unit length, and which of them is nearest to a view."""

    def __init__(self, size: int, dimension: int, after: int) -> None:
        super().__init__(name="memory")
        start = keras.initializers.RandomNormal()
        self.kept = self.add_weight(
            shape=(size, dimension), initializer=start, trainable=False, name="kept", aggregation=_ONE
        )
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps", aggregation=_ONE)
        self._after = after
        self.built = True

    def call(self, views: Any) -> Any:
        """Returns what stands in for each view, float32 `[B, D]`: for the first steps the view itself.

        Then what is kept nearest to it, by cosine, without a gradient.
        """
        similarity = tf.matmul(tf.math.l2_normalize(views, axis=1), self.kept, transpose_b=True)
        near = tf.stop_gradient(tf.gather(self.kept, tf.argmax(similarity, axis=1)))
        return tf.where(self.steps < float(self._after), views, near)

    def remember(self, views: Any) -> None:
        """Keeps these, and forgets as many of the oldest."""
        new = tf.stop_gradient(tf.math.l2_normalize(views, axis=1))
        self.kept.assign(tf.concat([new, self.kept], 0)[: self.kept.shape[0]])
        self.steps.assign_add(1.0)


def _projection(dimension: int, width: int) -> keras.Model:
    """Returns the layers between the embedding and the agreement: none, or two with ReLU and batch normalisation."""
    embedding = keras.Input((dimension,))
    x: Any = keras.layers.Identity()(embedding)
    if width:
        x = keras.layers.Dense(width, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.Dense(width)(x)
    return keras.Model(embedding, x, name="projection")
