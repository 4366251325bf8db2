"""A Transform graph, small and real, for the tests of what is learned."""

import pathlib
import types
from typing import Any

import numpy as np
import pytest

from tests.pipeline.discs import SIDE, disc, fn_args_for, write_examples


@pytest.fixture(scope="session")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> types.SimpleNamespace:
    """Examples of 80 discs in two splits, and the Transform output made from them."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    from pipeline.beam_options import DIRECT_RUNNER
    from pipeline.preprocessing import preprocessing_fn

    folder = tmp_path_factory.mktemp("trained")
    images = [disc(seed) for seed in range(80)]
    write_examples(folder / "examples", images[:64], "train")
    write_examples(folder / "examples", images[64:], "eval")
    config = {"height": SIDE, "width": SIDE, "channels": 1, "fit": "stretch", "code": "x"}
    schema = schema_utils.schema_from_feature_spec({"image": tf.io.FixedLenFeature([1], tf.string)})
    metadata = dataset_metadata.DatasetMetadata(schema)
    rows = [{"image": np.array([image], object)} for image in images[:64]]
    with beam.Pipeline(DIRECT_RUNNER) as pipeline, tft_beam.Context(str(folder / "temporary")):
        graph = (pipeline | beam.Create(rows), metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing_fn(inputs, config)
        )
        graph | tft_beam.WriteTransformFn(str(folder / "transform"))
    assert tft.TFTransformOutput(str(folder / "transform")).transformed_feature_spec()
    return types.SimpleNamespace(folder=folder, images=images, transform=str(folder / "transform"))


@pytest.fixture
def fn_args(trained_on: types.SimpleNamespace, tmp_path: pathlib.Path) -> Any:
    """What TFX's Trainer hands to run_fn."""
    return fn_args_for(trained_on.folder, trained_on.transform, tmp_path, epochs=2)
