"""Every system of the lineage is one file away: each is built as it says, and trains."""

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config, trainer
from pipeline.families import Collected, Trainee

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
SEEDS = sorted((CONFIGS / "seeds").glob("*.yaml"))


def test_there_is_one_for_each_system():
    names = {path.stem for path in SEEDS}
    families = ("undercomplete", "deep", "convolutional", "denoising", "sparse", "contractive", "variational")
    assert names == {
        *("pyimagesearch-2020", "hubens-2018", "baaj-2017", "sze-to-2016-16", "sze-to-2016-512"),
        *("siradjuddin-2019", "siradjuddin-2019-pixels", "daoud-2019", "yuan-li-2008", "ramanjaneyulu-2018"),
        *(f"opengenus-{family}" for family in families),
    }


RECIPES = [CONFIGS / f"{name}.yaml" for name in ("mnist", "fashion-mnist", "cifar10")]


@pytest.mark.parametrize("path", SEEDS + RECIPES, ids=lambda path: path.stem)
def test_a_seed_is_built_and_trains(path):
    encoder = config.load(str(path)).encoder
    encoder = dataclasses.replace(encoder, height=encoder.height or 28, width=encoder.width or 28)
    encoder = dataclasses.replace(encoder, channels=encoder.channels or 1)
    network = trainer.build(encoder, Collected(np.full(encoder.channels, 0.5), np.full(encoder.channels, 0.1), 2))
    shape = (4, encoder.height, encoder.width, encoder.channels)
    pixels = np.random.default_rng(0).random(shape, np.float32)
    if network.loss is None:
        assert network.fit is None
        assert network.encoder(pixels).shape == (4, network.dimension)
        return
    trainee = Trainee(network)
    trainee.compile("adam", jit_compile=False, run_eagerly=True)
    target = np.array([0, 1, 0, 1]) if encoder.family == "cnn" else pixels
    before = [np.array(v) for v in network.encoder.trainable_variables]
    for _ in range(2):
        loss = trainee.train_on_batch((tf.constant(pixels), tf.constant(target)), target)
    assert np.isfinite(loss).all()
    assert any((a != np.array(b)).any() for a, b in zip(before, network.encoder.trainable_variables, strict=True))
