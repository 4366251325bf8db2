"""A classifier whose last hidden layer is the embedding: what labels would be worth, where there are any."""

import keras
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families.bodies import encoder_body
from pipeline.families.family import Collected, Network

CLASSIFICATION = "classification"


def cnn(config: EncoderConfig, collected: Collected) -> Network:
    """Returns a convolutional network trained to name the label (Ramanjaneyulu et al., 2018): an upper reference.

    The cross-entropy of a linear layer over the embedding's ReLU. An image whose label training never saw counts 0.
    """
    if collected.labels < 2:
        raise ValueError(f"the family cnn needs images of 2 labels or more, got {collected.labels}: ingest.label_from.")
    encoder = encoder_body(config, collected)
    embedding = keras.Input((config.dimension,))
    x = keras.layers.Dropout(0.3)(keras.layers.ReLU()(embedding))
    classifier = keras.Model(embedding, keras.layers.Dense(collected.labels)(x), name="classifier")

    def loss(pixels: tf.Tensor, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        logits = classifier(encoder(pixels, training=training), training=training)
        known = tf.cast(target >= 0, tf.float32)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(target, 0), logits)
        return {CLASSIFICATION: tf.reduce_sum(known * entropy) / tf.maximum(tf.reduce_sum(known), 1.0)}

    return Network(encoder, loss=loss, terms=(CLASSIFICATION,), others=(classifier,))
