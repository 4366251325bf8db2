"""The family whose embedding is a code of bits."""

from typing import Any

import keras
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families.bodies import decoder_body, encoder_body
from pipeline.families.family import Collected, Network
from pipeline.families.reconstruction import RECONSTRUCTION, error


@keras.saving.register_keras_serializable("lookalike")
class Bits(keras.layers.Layer):
    """-1 where the activation is negative, else 1: so the cosine of two codes of B bits is 1 - 2 Hamming / B."""

    def call(self, activation: Any) -> Any:
        """Returns the code, float32 of the activation's shape."""
        return tf.where(activation < 0.0, -1.0, 1.0)


def binary(config: EncoderConfig, collected: Collected) -> Network:
    """Returns a deep denoising autoencoder whose code is pushed to bits.

    Sze-To, Tizhoosh, Wong, "Binary codes for tagging X-ray images via deep de-noising autoencoders", 2016: dropout on
    the input, back-propagation only. Noise before the code's sigmoid makes it choose a side (Salakhutdinov, Hinton,
    "Semantic hashing", 2009, section 2.2). The decoder learns from 2 sigmoid(a + e) - 1 and serves from the bits.
    """
    options = config.binary
    body = encoder_body(config, collected, own="dense")
    activation = keras.Model(body.input, body.output, name="activation")
    encoder = keras.Model(body.input, Bits(name="bits")(body.output), name="encoder")
    decoder = decoder_body(config, own="dense")

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        if not training:
            return {RECONSTRUCTION: error(config, pixels, decoder(encoder(pixels, training=False), training=False))}
        kept = tf.random.uniform(tf.shape(pixels)) >= options.dropout
        before = activation(pixels * tf.cast(kept, tf.float32), training=True)
        before += tf.random.normal(tf.shape(before), stddev=options.noise)
        decoded = decoder(2.0 * tf.sigmoid(before) - 1.0, training=True)
        return {RECONSTRUCTION: error(config, pixels, decoded)}

    return Network(encoder, decoder, loss, (RECONSTRUCTION,), activation=activation)
