"""What is done to the embedding of `ours` once it is trained."""

import keras
import numpy as np
import pytest

from components.evaluation import references
from pipeline import trainer
from pipeline.encoder_config import EncoderConfig, OursOptions

SHAPE = {"family": "ours", "height": 16, "width": 16, "channels": 3, "dimension": 8, "filters": (4,)}
IMAGES = np.random.default_rng(5).integers(0, 256, (200, 16, 16, 3), np.uint8)
IMAGES[:100] //= 4


def settled(**options):
    keras.utils.set_random_seed(6)
    network = trainer.build(EncoderConfig(**SHAPE, ours=OursOptions(**options)))
    network.fit(IMAGES, 0)
    return network


def pixels(images=IMAGES):
    return images.astype(np.float32) / 255.0


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "options",
    [{"whiten": 0.5}, {"components": 3}, {"whiten": 1.0, "components": 3, "components_of": "descriptors"}],
)
def test_the_decoder_still_gets_what_was_learned(options):
    network = settled(**options)
    learned = network.encoder.get_layer("learned")(pixels())
    latent = network.encoder(pixels())
    assert latent.shape == (200, 8)
    back = network.decoder.get_layer("back")(latent)
    np.testing.assert_allclose(back, learned, atol=1e-3)


def test_nothing_to_do_leaves_the_network_alone():
    network = trainer.build(EncoderConfig(**SHAPE))
    assert network.fit is None
    assert {layer.name for layer in network.encoder.layers}.isdisjoint({"evened", "turned", "components"})


def test_whitening_evens_out_the_axes():
    def ratio(rows):
        spectrum = np.sort(np.linalg.eigvalsh(np.cov(rows.numpy().T)))
        return spectrum[-1] / spectrum[-4]

    whole, half = settled(whiten=1.0), settled(whiten=0.5)
    before = ratio(half.encoder.get_layer("learned")(pixels()))
    assert before > 1.5
    assert ratio(half.encoder(pixels())) == pytest.approx(before**0.5, rel=0.05)
    assert ratio(whole.encoder(pixels())) == pytest.approx(1.0, abs=0.05)
    rows = half.encoder(pixels()).numpy()
    np.testing.assert_allclose(rows.mean(axis=0), 0.0, atol=1e-4)
    assert np.square(rows).sum(axis=1).mean() == pytest.approx(1.0, rel=0.05)


def test_components_have_their_share_of_the_cosine():
    network = settled(components=3, components_weight=4.0)
    turn, moved = network.encoder.get_layer("turned").get_weights()
    # Turned back; the last three.
    beside = ((network.encoder(pixels()).numpy() - moved) @ turn.T)[:, 5:]
    expected = references.fit_pca(IMAGES, 3, seed=0).embed(IMAGES)
    np.testing.assert_allclose(beside, 2.0 * unit(expected), atol=1e-3)


def test_only_what_gradients_train_is_trained():
    network = settled(whiten=0.5, components=3)
    names = {variable.path.split("/")[0] for variable in network.encoder.trainable_variables}
    assert not names & {"evened", "turned", "components"}


@pytest.mark.parametrize("images", [IMAGES[:1], np.repeat(IMAGES[:1], 30, axis=0), IMAGES[:3]], ids=["1", "equal", "3"])
def test_a_few_images_are_enough(images):
    network = trainer.build(EncoderConfig(**SHAPE, ours=OursOptions(whiten=0.5, components=4)))
    network.fit(images, 0)
    assert np.isfinite(network.encoder(pixels())).all()
    assert np.isfinite(network.decoder(network.encoder(pixels(images)))).all()
