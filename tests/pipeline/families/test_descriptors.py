import json

import numpy as np
import pytest
import tensorflow as tf

from pipeline.encoder_config import EncoderConfig
from pipeline.families import Collected, descriptors
from tests.pipeline.families.scikit_image import EXPECTED, pictures


def batch(pixels):
    image = pixels.astype(np.float32) / 255.0
    return tf.constant(image.reshape(1, *image.shape[:2], -1))


@pytest.fixture(scope="module")
def expected():
    return json.loads(EXPECTED.read_text())


@pytest.mark.parametrize("name", list(pictures()))
def test_hog_is_scikit_images(expected, name):
    found = descriptors.hog(batch(pictures()[name])).numpy()[0]
    np.testing.assert_allclose(found, expected[name]["hog"], atol=2e-4)


@pytest.mark.parametrize("name", list(pictures()))
def test_local_binary_patterns_are_scikit_images(expected, name):
    found = descriptors.local_binary_pattern(descriptors.grey(batch(pictures()[name]))).numpy()[0]
    # Where a point around is as light as the middle to the last bit, scikit-image's rounding decides.
    assert (found == np.asarray(expected[name]["lbp"])).mean() > 0.97
    histogram = descriptors.lbp(batch(pictures()[name])).numpy()[0]
    np.testing.assert_allclose(histogram, np.bincount(found.astype(int).ravel(), minlength=18) / found.size, atol=1e-6)


def test_colours_are_counted():
    half = np.zeros((4, 4, 3), np.uint8)
    half[:2] = 255
    found = descriptors.colour_histogram(batch(half)).numpy()[0]
    assert found[0] == pytest.approx(0.5**0.5) and found[63] == pytest.approx(0.5**0.5)
    assert np.square(found).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "stripes"), [(0, np.tile([0, 255], (17, 9))), (1, np.tile([0, 255], (18, 8)).T)])
def test_edges_are_told_apart(kind, stripes):
    found = descriptors.edge_histogram(batch(stripes.astype(np.uint8))).numpy()[0].reshape(16, 5)
    assert (found.argmax(axis=1) == kind).all()


@pytest.mark.parametrize(("angle", "line"), [(0, np.s_[:, 20]), (9, np.s_[13, :])])
def test_the_longest_line_is_found_in_its_direction(angle, line):
    pixels = np.zeros((32, 32), np.uint8)
    pixels[line] = 255
    found = descriptors.line_features(batch(pixels)).numpy()[0].reshape(18, 5)
    assert found[:, 0].argmax() == angle
    assert found[angle, 0] >= 28


@pytest.mark.parametrize("shape", [(16, 16, 1), (256, 100, 3), (17, 40, 1)])
def test_any_size_has_descriptors(shape):
    height, width, channels = shape
    network = descriptors.descriptors(EncoderConfig(height=height, width=width, channels=channels), Collected())
    found = network.encoder(np.random.default_rng(0).random((2, *shape), np.float32)).numpy()
    assert found.shape == (2, network.dimension)
    np.testing.assert_allclose(np.square(found).sum(axis=1), 5.0, rtol=1e-4)
