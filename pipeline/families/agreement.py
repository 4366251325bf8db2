"""Losses that hold two views of an image together and keep different images apart. `B` images, `D` dimensions.

Each takes two float32 `[B, D]`, row i of either a view of image i, not normalised, and returns a scalar.
"""

import tensorflow as tf

_BARLOW_TWINS = 5e-3
_VICREG = (25.0, 25.0, 1.0)


def nt_xent(first: tf.Tensor, second: tf.Tensor, temperature: float) -> tf.Tensor:
    """Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning", 2020, equation 1.

    The mean over all 2 B views of -log of the share that the other view has in exp(cosine / temperature), summed over
    all views but the view itself.
    """
    views = tf.math.l2_normalize(tf.concat([first, second], 0), axis=1, epsilon=1e-12)
    similarity = tf.matmul(views, views, transpose_b=True) / temperature
    batch = tf.shape(first)[0]
    similarity -= 1e9 * tf.eye(2 * batch)
    partners = tf.concat([tf.range(batch) + batch, tf.range(batch)], 0)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(partners, similarity))


def info_nce(stand_ins: tf.Tensor, views: tf.Tensor, temperature: float) -> tf.Tensor:
    """The mean over i of -log of the share of view i in exp(cosine / temperature) with stand-in i, over all views.

    Dwibedi et al., "With a Little Help from My Friends" (NNCLR), 2021, equation 3: a view's nearest neighbour stands
    in for it.
    """
    stand_ins = tf.math.l2_normalize(stand_ins, axis=1, epsilon=1e-12)
    views = tf.math.l2_normalize(views, axis=1, epsilon=1e-12)
    similarity = tf.matmul(stand_ins, views, transpose_b=True) / temperature
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(tf.shape(views)[0]), similarity))


def barlow_twins(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins", 2021, equation 1, lambda 0.005, divided by D.

    The cross-correlation of the two views' dimensions over the batch is to be the identity.
    """
    batch = tf.cast(tf.shape(first)[0], tf.float32)
    dimension = first.shape[1]
    correlation = tf.matmul(_standardised(first), _standardised(second), transpose_a=True) / batch
    on = tf.reduce_sum(tf.square(1.0 - tf.linalg.diag_part(correlation)))
    off = tf.reduce_sum(tf.square(correlation)) - tf.reduce_sum(tf.square(tf.linalg.diag_part(correlation)))
    return (on + _BARLOW_TWINS * off) / dimension


def vicreg(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Bardes, Ponce, LeCun, "VICReg", 2022, equations 1 to 6: invariance 25, variance 25, covariance 1, over 25."""
    invariance, variance, covariance = _VICREG
    distance = tf.reduce_mean(tf.square(first - second))
    spread = _below_one(first) + _below_one(second)
    redundancy = _covariance(first) + _covariance(second)
    return (invariance * distance + variance * spread + covariance * redundancy) / invariance


def _standardised(views: tf.Tensor) -> tf.Tensor:
    centered = views - tf.reduce_mean(views, axis=0)
    return centered * tf.math.rsqrt(tf.reduce_mean(tf.square(centered), axis=0) + 1e-5)


def _below_one(views: tf.Tensor) -> tf.Tensor:
    deviation = tf.sqrt(tf.math.reduce_variance(views, axis=0) + 1e-4)
    return tf.reduce_mean(tf.nn.relu(1.0 - deviation))


def _covariance(views: tf.Tensor) -> tf.Tensor:
    centered = views - tf.reduce_mean(views, axis=0)
    freedom = tf.maximum(tf.cast(tf.shape(views)[0], tf.float32) - 1.0, 1.0)
    matrix = tf.matmul(centered, centered, transpose_a=True) / freedom
    off = tf.reduce_sum(tf.square(matrix)) - tf.reduce_sum(tf.square(tf.linalg.diag_part(matrix)))
    return off / views.shape[1]
