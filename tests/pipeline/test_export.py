import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from components import features
from components.pixels import PixelShape, decode
from pipeline import export, preprocessing, trainer
from pipeline.encoder_config import EncoderConfig
from pipeline.families import Collected
from tests.pipeline.discs import SIDE, disc


@pytest.fixture(scope="module")
def exported(trained_on, tmp_path_factory):
    """An untrained encoder, exported through the Transform graph as run_fn does it: its folder, its networks."""
    layer = tft.TFTransformOutput(trained_on.transform).transform_features_layer()
    config = EncoderConfig(height=SIDE, width=SIDE, channels=1, dimension=6, filters=(4, 8))
    network = trainer.build(config, Collected(mean=[0.2], variance=[0.1]))
    folder = tmp_path_factory.mktemp("export") / "model"

    def to_pixels(image_bytes):
        return layer({features.IMAGE: image_bytes[:, tf.newaxis]})[preprocessing.PIXELS]

    export.export(network, to_pixels, layer, folder, {"family": "convolutional"})
    return folder, network


def embedding_by_keras(network, images):
    pixels = tf.cast(decode(images, PixelShape(SIDE, SIDE, 1)), tf.float32) / 255.0
    latent = network.encoder(pixels, training=False).numpy()
    return latent / np.linalg.norm(latent, axis=1, keepdims=True)


def test_every_signature_answers_what_the_networks_say(exported):
    folder, network = exported
    loaded = tf.saved_model.load(str(folder))
    images = [disc(seed) for seed in range(5)]
    expected = embedding_by_keras(network, images)

    embedding = loaded.signatures["serving_default"](image_bytes=tf.constant(images))["embedding"]
    assert embedding.dtype == tf.float32 and embedding.shape == (5, 6)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)

    answer = loaded.signatures["reconstruct"](image_bytes=tf.constant(images))
    assert answer["image"].dtype == tf.uint8 and answer["image"].shape == (5, SIDE, SIDE, 1)
    pixels = tf.cast(decode(images, PixelShape(SIDE, SIDE, 1)), tf.float32).numpy() / 255.0
    decoded = network.decoder(network.encoder(pixels, training=False), training=False).numpy()
    np.testing.assert_allclose(answer["error"], ((pixels - decoded) ** 2).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(answer["image"], decoded * 255, atol=0.51)

    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(images[0])
    one = loaded.signatures["examples"](examples=tf.constant([example.SerializeToString()]))
    np.testing.assert_allclose(one["embedding"][0], expected[0], atol=1e-5)
    np.testing.assert_allclose(one["mse"], answer["error"][:1], rtol=1e-4)


def test_the_session_loader_of_tf_serving_restores_it(exported):
    folder, network = exported
    images = [disc(seed) for seed in range(3)]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        signature = meta.signature_def["serving_default"]
        (found,) = session.run(
            [signature.outputs["embedding"].name], {signature.inputs["image_bytes"].name: np.array(images, object)}
        )
    np.testing.assert_allclose(found, embedding_by_keras(network, images), atol=1e-5)


def test_an_export_says_how_it_was_trained(exported):
    folder, _ = exported
    assert json.loads((pathlib.Path(folder) / export.TRAINING_INFO).read_text()) == {"family": "convolutional"}


def test_bits_are_packed_as_numpy_packs_them():
    activation = np.random.default_rng(0).normal(size=(7, 24)).astype(np.float32)
    np.testing.assert_array_equal(export.packed(tf.constant(activation)), np.packbits(activation >= 0.0, axis=1))


def test_nothing_at_all_has_unit_length_too_and_what_is_no_number_stays_none():
    found = export.normalised(tf.constant([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]])).numpy()
    np.testing.assert_allclose(found[:2], [[0.6, 0.8], [0.5**0.5, 0.5**0.5]], atol=1e-6)
    assert np.isnan(found[2]).all()
