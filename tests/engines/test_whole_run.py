"""A whole training run on the engine that LOOKALIKE_JOB_ENDPOINT names; `make engine-test` starts one and runs this."""

import json
import pathlib
import shutil
import types

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.types import standard_artifacts

from components.artifacts import Embeddings, VectorIndex
from components.embedder import Embedder
from components.index_builder import IndexBuilder
from pipeline.beam_options import DIRECT_ARGS
from pipeline.demo_images import write_digits
from tests.components.test_on_workers import contents
from tests.e2e.lookalike import last_run, run
from tests.pipeline.workers.jobs import options, running_pool


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    write_digits(tmp_path / "all", tmp_path / "queries")
    for file in sorted((tmp_path / "all").rglob("*.png"))[::10]:
        target = tmp_path / "images" / file.relative_to(tmp_path / "all")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return tmp_path / "images"


def artifact(kind: type, root: pathlib.Path, step: str, key: str) -> types.SimpleNamespace:
    """Returns the only artifact that a step of the run wrote."""
    [folder] = (root / "pipeline" / "artifacts" / step / key).iterdir()
    found = kind()
    found.uri = str(folder)
    return found


def test_a_whole_run_publishes_what_the_direct_runner_makes_of_the_same_encoder(images, tmp_path):
    with running_pool() as pool:
        done = run(images, tmp_path, "ingest.label_from=folder", f"beam_args={json.dumps(options(pool.address))}")
    assert done.returncode == 0, done.stderr[-5000:]
    assert {"ImageExampleGen", "StatisticsGen", "Transform", "Embedder", "IndexBuilder"} <= set(
        last_run(tmp_path)["components"]
    )

    examples = artifact(standard_artifacts.Examples, tmp_path, "ImageExampleGen", "examples")
    blessing = artifact(standard_artifacts.InfraBlessing, tmp_path, "ServingValidator", "infra_blessing")
    blessing.set_int_custom_property("blessed", 1)
    blessing.set_int_custom_property("has_model", 1)
    embeddings, index = Embeddings(), VectorIndex()
    embeddings.uri, index.uri = str(tmp_path / "embeddings"), str(tmp_path / "index")
    Embedder.test_call(
        examples=examples,
        infra_blessing=blessing,
        embeddings=embeddings,
        serving_root="",
        batch_size=256,
        max_failed_share=0.01,
        beam_pipeline=beam.Pipeline(options=PipelineOptions(list(DIRECT_ARGS))),
    )
    IndexBuilder.test_call(
        embeddings=embeddings,
        index=index,
        shards=1,
        parameters="",
        beam_pipeline=beam.Pipeline(options=PipelineOptions(list(DIRECT_ARGS))),
    )
    alone = contents(index)
    together = contents(artifact(VectorIndex, tmp_path, "IndexBuilder", "index"))
    assert len(alone) == len(list(images.rglob("*.png")))
    assert together.keys() == alone.keys()
    for item_id, (item, vector) in alone.items():
        assert together[item_id][0] == item
        np.testing.assert_allclose(together[item_id][1], vector, atol=1e-5)
