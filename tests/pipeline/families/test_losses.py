import numpy as np
import pytest
import tensorflow as tf

from pipeline import trainer
from pipeline.encoder_config import AugmentOptions, EncoderConfig, OursOptions
from pipeline.families import Trainee, agreement, ours, regularised

RANDOM = np.random.default_rng(3)


def views(batch=6, dimension=4):
    return RANDOM.normal(size=(2, batch, dimension)).astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_nt_xent_by_its_equation():
    first, second = views()
    both = unit(np.concatenate([first, second]))
    losses = []
    for i in range(12):
        j = (i + 6) % 12
        similarity = np.exp(both @ both[i] / 0.5)
        losses.append(-np.log(similarity[j] / (similarity.sum() - similarity[i])))
    assert float(agreement.nt_xent(first, second, 0.5)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_info_nce_by_its_equation():
    first, second = views()
    similarity = np.exp(unit(first) @ unit(second).T / 0.1)
    expected = -np.log(np.diag(similarity) / similarity.sum(axis=1)).mean()
    assert float(agreement.info_nce(first, second, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_barlow_twins_by_its_equation():
    first, second = views(50)
    c = np.corrcoef(first.T, second.T)[:4, 4:]
    off = np.square(c).sum() - np.square(np.diag(c)).sum()
    expected = (np.square(1 - np.diag(c)).sum() + 5e-3 * off) / 4
    assert float(agreement.barlow_twins(tf.constant(first), tf.constant(second))) == pytest.approx(expected, rel=1e-3)


def test_vicreg_by_its_equations():
    first, second = views(50)
    total = 25 * np.square(first - second).mean()
    for view in (first, second):
        total += 25 * np.maximum(0, 1 - np.sqrt(view.var(axis=0) + 1e-4)).mean()
        covariance = np.cov(view.T)
        total += (np.square(covariance).sum() - np.square(np.diag(covariance)).sum()) / 4
    assert float(agreement.vicreg(tf.constant(first), tf.constant(second))) == pytest.approx(total / 25, rel=1e-4)


def test_sparsity_by_hand():
    code = tf.constant([[0.1, 0.5], [0.3, 0.5]])
    kl = sum(0.1 * np.log(0.1 / q) + 0.9 * np.log(0.9 / (1 - q)) for q in (0.2, 0.5))
    assert float(regularised.kl_sparsity(code, 0.1)) == pytest.approx(kl, rel=1e-5)
    assert float(regularised.l1_sparsity(tf.constant([[1.0, -2.0], [0.0, 1.0]]))) == pytest.approx(2.0)


def test_contraction_is_the_norm_of_the_jacobian():
    pixels = RANDOM.normal(size=(5, 7)).astype(np.float32)
    kernel = tf.constant(RANDOM.normal(size=(7, 3)).astype(np.float32))
    with tf.GradientTape() as tape:
        x = tf.constant(pixels)
        tape.watch(x)
        code = tf.sigmoid(x @ kernel)
    jacobian = tape.batch_jacobian(code, x).numpy()
    expected = np.square(jacobian).sum(axis=(1, 2)).mean()
    assert float(regularised.contraction(code, kernel)) == pytest.approx(expected, rel=1e-4)


def test_the_divergence_by_hand():
    mean, variance = np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 2.0]], np.float32)
    # KL(N(1, 1) || N(0, 1)) = 1/2, KL(N(0, 2) || N(0, 1)) = (2 - 1 - log 2) / 2.
    found = regularised.divergence(tf.constant(mean), tf.math.log(tf.constant(variance)))
    assert float(found) == pytest.approx(0.5 + (1 - np.log(2)) / 2, rel=1e-5)


def test_a_memory_gives_back_what_is_nearest_once_its_time_has_come():
    memory = ours.Memory(3, 2, after=2)
    view = np.array([[3.0, 0.1]], np.float32)
    memory.remember(np.array([[0.0, 5.0]], np.float32))
    np.testing.assert_array_equal(memory(view), view)
    memory.remember(np.array([[2.0, 0.0]], np.float32))
    np.testing.assert_allclose(memory(view), [[1.0, 0.0]])
    assert memory.kept.shape == (3, 2)
    np.testing.assert_allclose(memory.kept[:2], [[1.0, 0.0], [0.0, 1.0]])


def test_the_decoder_may_learn_from_a_share_of_the_batch():
    still = dict.fromkeys(("shift", "zoom", "rotation", "shear", "elastic", "brightness", "contrast", "noise"), 0.0)
    shape = {"family": "ours", "height": 16, "width": 16, "channels": 1, "dimension": 8, "filters": (4,)}
    options = {"ours": OursOptions(drawn=0.25, reconstruction=2.0), "augment": AugmentOptions(**still)}
    network = trainer.build(EncoderConfig(**shape, **options))
    pixels = tf.constant(RANDOM.random((10, 16, 16, 1), np.float32))
    found = Trainee(network)((pixels, pixels), training=False)["reconstruction"]
    # Two and a half images are three.
    expected = np.square(pixels[:3] - network.decoder(network.encoder(pixels[:3]))).mean()
    assert float(found) == pytest.approx(2.0 * expected, rel=1e-5)


def test_noise_is_only_made_in_training():
    shape = {"height": 16, "width": 16, "channels": 1, "dimension": 8, "filters": (4,), "units": (8,)}
    pixels = tf.constant(RANDOM.random((4, 16, 16, 1), np.float32))
    for family in ("denoising", "binary", "variational"):
        trainee = Trainee(trainer.build(EncoderConfig(family=family, **shape)))
        still = [float(trainee((pixels, pixels), training=False)["reconstruction"]) for _ in range(2)]
        noisy = [float(trainee((pixels, pixels), training=True)["reconstruction"]) for _ in range(2)]
        assert still[0] == still[1]
        assert noisy[0] != noisy[1]


def test_the_loss_is_the_sum_of_its_terms():
    config = EncoderConfig(family="sparse", height=16, width=16, channels=1, dimension=8, units=(8,))
    trainee = Trainee(trainer.build(config))
    trainee.compile("sgd")
    pixels = tf.constant(RANDOM.random((4, 16, 16, 1), np.float32))
    found = trainee.evaluate((pixels, pixels), pixels, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(found["reconstruction"] + found["sparsity"], rel=1e-5)
    assert found["sparsity"] > 0.0
