import numpy as np
import pytest
import tensorflow as tf

from components.embedding.saved_encoder import EncoderFault, SavedEncoder
from tests.components.tiny import DIMENSION, make_encoder, png


class Scaled(tf.Module):
    """Embeds the number that an image's bytes spell, not at unit length."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def embed(self, image_bytes):
        return {"embedding": tf.strings.to_number(image_bytes)[:, None] * tf.constant([[0.6, 0.8]])}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("scaled") / "model")
    module = Scaled()
    tf.saved_model.save(module, folder, signatures={"serving_default": module.embed})
    return folder


def test_a_good_batch_is_one_call(tmp_path):
    encoder = make_encoder(tmp_path / "blessing")
    embedded = SavedEncoder(str(encoder.folder), DIMENSION).embed(tf.constant([png(n) for n in range(5)]))
    assert encoder.calls() == [5]
    assert embedded.vectors.shape == (5, DIMENSION)
    assert embedded.failures == {}


def test_a_batch_that_fails_is_retried_one_image_at_a_time(tmp_path):
    encoder = make_encoder(tmp_path / "blessing")
    saved = SavedEncoder(str(encoder.folder), DIMENSION)
    good = saved.embed(tf.constant([png(0), png(2)])).vectors
    encoder.calls()
    embedded = saved.embed(tf.constant([png(0), png(1)[:30], png(2)]))
    assert encoder.calls() == [3, 1, 1, 1]
    assert embedded.failures.keys() == {1}
    assert embedded.vectors[1].tolist() == [0] * DIMENSION
    np.testing.assert_allclose(embedded.vectors[[0, 2]], good, atol=1e-6)


def test_embeddings_that_have_no_unit_length_are_refused(scaled):
    embedded = SavedEncoder(scaled, 2).embed(tf.constant(["1", "2", "nan", "0", "-1", "inf"]))
    assert embedded.failures.keys() == {1, 2, 3, 5}
    assert embedded.failures[1] == "the embedding must have unit length, got 2"


def test_another_dimension_is_no_matter_of_one_image(scaled):
    with pytest.raises(EncoderFault, match=r"shape \(1, 3\), got \(1, 2\)"):
        SavedEncoder(scaled, 3).embed(tf.constant(["1"]))
