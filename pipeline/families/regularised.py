"""The families that reconstruct under a penalty on the code: sparse, contractive, variational."""

import keras
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families.bodies import decoder_body, dense_decoder, dense_encoder, encoder_body
from pipeline.families.family import Collected, Network
from pipeline.families.reconstruction import RECONSTRUCTION, error

SPARSITY, CONTRACTION, DIVERGENCE = "sparsity", "contraction", "divergence"


def sparse(config: EncoderConfig, collected: Collected) -> Network:
    """Returns a network whose code is mostly near zero, by `encoder.sparse.penalty`.

    kl: sigmoid units, sum_j KL(target || mean activation of unit j over the batch) (A. Ng, "Sparse autoencoder", CS294A
    lecture notes, 2011, section 3). l1: ReLU units, sum_j |h_j|, the mean over the batch.
    """
    options = config.sparse
    body = encoder_body(config, collected, own="dense")
    activation = keras.layers.Activation("sigmoid" if options.penalty == "kl" else "relu", name="code")
    encoder = keras.Model(body.input, activation(body.output), name="encoder")
    decoder = decoder_body(config, own="dense")

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        code = encoder(pixels, training=training)
        penalty = kl_sparsity(code, options.target) if options.penalty == "kl" else l1_sparsity(code)
        decoded = decoder(code, training=training)
        return {RECONSTRUCTION: error(config, pixels, decoded), SPARSITY: options.weight * penalty}

    return Network(encoder, decoder, loss, (RECONSTRUCTION, SPARSITY))


def kl_sparsity(code: tf.Tensor, target: float) -> tf.Tensor:
    """Returns sum_j KL(target || q_j), q_j the mean over the batch of code `[B, D]` in (0, 1)."""
    mean = tf.clip_by_value(tf.reduce_mean(code, axis=0), 1e-6, 1.0 - 1e-6)
    rest = (1.0 - target) * tf.math.log((1.0 - target) / (1.0 - mean))
    return tf.reduce_sum(target * tf.math.log(target / mean) + rest)


def l1_sparsity(code: tf.Tensor) -> tf.Tensor:
    """Returns the mean over the batch of sum_j |h_j|, code `[B, D]`."""
    return tf.reduce_mean(tf.reduce_sum(tf.abs(code), axis=1))


def contractive(config: EncoderConfig, collected: Collected) -> Network:
    """Returns one sigmoid layer whose output moves little when the input does.

    Rifai, Vincent, Muller, Glorot, Bengio, "Contractive Auto-Encoders", 2011, equation 2: the squared Frobenius norm of
    the encoder's Jacobian, the mean over the batch.
    """
    encoder = dense_encoder(config, collected, (), "sigmoid")
    decoder = dense_decoder(config, ())

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        code = encoder(pixels, training=training)
        penalty = config.contractive.weight * contraction(code, encoder.get_layer("embedding").kernel)
        return {RECONSTRUCTION: error(config, pixels, decoder(code, training=training)), CONTRACTION: penalty}

    return Network(encoder, decoder, loss, (RECONSTRUCTION, CONTRACTION))


def contraction(code: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Returns the mean of ||J||_F^2 for h = sigmoid(x W + b): sum_j (h_j (1 - h_j))^2 sum_i W_ij^2 (their section 5).

    code: h `[B, D]`. kernel: W `[P, D]`. J is with respect to the layer's input, standardised where the config says so.
    """
    slopes = tf.square(code * (1.0 - code))
    return tf.reduce_mean(tf.reduce_sum(slopes * tf.reduce_sum(tf.square(kernel), axis=0), axis=1))


def variational(config: EncoderConfig, collected: Collected) -> Network:
    """Returns a network whose code is a Gaussian of which the mean is the embedding.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, equation 10, per pixel: the reconstruction error of one
    sample, plus weight / P times the divergence from N(0, 1); P numbers in an image. (With `mse` the error stands for
    a Gaussian of variance 1/2 a pixel; `bce` is the paper's choice for black and white.)
    """
    body = encoder_body(config, collected)
    log_variance = keras.layers.Dense(config.dimension, kernel_initializer="zeros", name="log_variance")
    # From the layer below the embedding, where there is one.
    below = body.layers[-1].input if config.latent != "map" or config.body == "dense" else body.output
    encoder = keras.Model(body.input, body.output, name="encoder")
    posterior = keras.Model(body.input, [body.output, log_variance(below)], name="posterior")
    decoder = decoder_body(config)
    share = config.variational.weight / (config.height * config.width * config.channels)

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        mean, log_var = posterior(pixels, training=training)
        log_var = tf.clip_by_value(log_var, -20.0, 10.0)
        sample = mean
        if training:
            sample += tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))
        decoded = decoder(sample, training=training)
        return {RECONSTRUCTION: error(config, pixels, decoded), DIVERGENCE: share * divergence(mean, log_var)}

    return Network(encoder, decoder, loss, (RECONSTRUCTION, DIVERGENCE), others=(posterior,))


def divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Returns KL(N(mean, variance) || N(0, 1)) summed over dimensions, the mean over the batch (their appendix B)."""
    inner = 1.0 + log_variance - tf.square(mean) - tf.exp(log_variance)
    return -0.5 * tf.reduce_mean(tf.reduce_sum(inner, axis=1))
