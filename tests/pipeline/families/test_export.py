"""Contract 1, for every family: trained by the pipeline's own trainer, exported, restored as TF Serving restores."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from components.evaluation.exported_encoder import ExportedEncoder
from components.validation.serving_check import answers_in_process, answers_in_session, compare, questions
from pipeline import encoder_config, trainer
from pipeline.families import BY_NAME
from serving.index import pack_codes
from tests.pipeline.discs import SIDE

DIMENSIONS = {"binary": 16, "itq": 16}
OURS = {"neighbors": 32, "whiten": 0.5, "components": 2}


def test_every_family_has_a_name_in_the_config():
    assert set(BY_NAME) == set(encoder_config.FAMILIES)


def record(image):
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(image)
    return example.SerializeToString()


def is_fast(family):
    return family in ("pca", "ours")


@pytest.mark.parametrize(
    "family", [f if is_fast(f) else pytest.param(f, marks=pytest.mark.slow) for f in encoder_config.FAMILIES]
)
def test_a_family_is_trained_and_exported_as_an_encoder(trained_on, fn_args, family):
    custom = fn_args.custom_config
    dimension = DIMENSIONS.get(family, 4)
    custom["encoder"] |= {"family": family, "dimension": dimension, "units": [16], "ours": OURS}
    custom["training"]["epochs"] = 1
    trainer.run_fn(fn_args)

    folder = pathlib.Path(fn_args.serving_model_dir)
    encoder = ExportedEncoder(str(folder))
    assert encoder.info.family == family
    images = trained_on.images[:5]
    asked = questions(encoder, images, [record(image) for image in images])
    expected = answers_in_process(encoder, asked)
    compare(asked, expected, answers_in_session(folder, asked), "through the session loader")

    embeddings = encoder.embed(images)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    assert np.ptp(embeddings, axis=0).max() > 1e-6
    by_examples = encoder.ask("examples", examples=[record(image) for image in images])
    np.testing.assert_allclose(by_examples["embedding"], embeddings, atol=1e-5)
    assert encoder.reconstructs == (family in encoder_config.RECONSTRUCTING)
    if encoder.reconstructs:
        pictures, errors = encoder.reconstruct(images)
        assert pictures.shape == (5, SIDE, SIDE, 1) and pictures.dtype == np.uint8
        np.testing.assert_allclose(by_examples["mse"], errors, rtol=1e-4, atol=1e-6)
    assert ("hash" in encoder.signatures) == (family in encoder_config.BINARY)
    if "hash" in encoder.signatures:
        answer = encoder.ask("hash", image_bytes=images)
        assert answer["code"].dtype == np.uint8 and answer["code"].shape == (5, dimension // 8)
        bits = np.unpackbits(answer["code"], axis=1).astype(np.float32)
        np.testing.assert_array_equal(bits, answer["activation"] >= 0.0)
        # The index takes its codes from the signs of embeddings: they must be those of `hash`.
        np.testing.assert_array_equal(pack_codes(embeddings), answer["code"])
        lengths = np.linalg.norm(answer["activation"], axis=1, keepdims=True)
        np.testing.assert_allclose(embeddings, answer["activation"] / lengths, atol=1e-5)
    history = json.loads((folder / "assets.extra/lookalike_training.json").read_text())["history"]
    assert bool(history) == (family not in ("pca", "itq", "pixels", "descriptors"))
