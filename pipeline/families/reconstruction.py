"""The families that only reconstruct, and the error that all reconstructing families share."""

import keras
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families.bodies import (
    convolutional_decoder,
    convolutional_encoder,
    decoder_body,
    dense_decoder,
    dense_encoder,
    encoder_body,
)
from pipeline.families.family import Collected, Network

RECONSTRUCTION = "reconstruction"
_SMALLEST = 1e-6


def error(config: EncoderConfig, pixels: tf.Tensor, decoded: tf.Tensor) -> tf.Tensor:
    """Returns the mean over pixels in [0, 1] and images: of squared errors (`mse`), or of cross-entropies (`bce`)."""
    if config.loss == "bce":
        decoded = tf.clip_by_value(decoded, _SMALLEST, 1.0 - _SMALLEST)
        return -tf.reduce_mean(pixels * tf.math.log(decoded) + (1.0 - pixels) * tf.math.log(1.0 - decoded))
    return tf.reduce_mean(tf.square(pixels - decoded))


def undercomplete(config: EncoderConfig, collected: Collected) -> Network:
    """Returns one dense layer to fewer dimensions and one back (Hinton and Salakhutdinov, Science 313, 2006)."""
    return _plain(config, dense_encoder(config, collected, ()), dense_decoder(config, ()))


def deep(config: EncoderConfig, collected: Collected) -> Network:
    """Returns the same with hidden layers of `encoder.units` (Hinton and Salakhutdinov, 2006)."""
    return _plain(config, dense_encoder(config, collected, config.units), dense_decoder(config, config.units))


def convolutional(config: EncoderConfig, collected: Collected) -> Network:
    """Returns the convolutional autoencoder (Masci et al., 2011; the lineage's: see bodies)."""
    return _plain(config, convolutional_encoder(config, collected), convolutional_decoder(config))


def denoising(config: EncoderConfig, collected: Collected) -> Network:
    """Returns a network that removes noise from its input in training, and has none to remove when it serves.

    Vincent, Larochelle, Bengio, Manzagol, "Extracting and Composing Robust Features with Denoising Autoencoders",
    2008: L(x, g(f(x + e))), here e ~ N(0, noise^2), the sum cut to [0, 1].
    """
    encoder, decoder = encoder_body(config, collected), decoder_body(config)
    noise = config.denoising.noise

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        seen = pixels
        if training:
            seen = tf.clip_by_value(pixels + tf.random.normal(tf.shape(pixels), stddev=noise), 0.0, 1.0)
        decoded = decoder(encoder(seen, training=training), training=training)
        return {RECONSTRUCTION: error(config, pixels, decoded)}

    return Network(encoder, decoder, loss, (RECONSTRUCTION,))


def _plain(config: EncoderConfig, encoder: keras.Model, decoder: keras.Model) -> Network:
    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        return {RECONSTRUCTION: error(config, pixels, decoder(encoder(pixels, training=training), training=training))}

    return Network(encoder, decoder, loss, (RECONSTRUCTION,))
