import dataclasses
import itertools
import json

import pytest

from components.tuning.options import TuningOptions
from pipeline.config import EvaluationConfig, IndexConfig, PipelineConfig, load
from pipeline.pipeline import create_training_pipeline, evaluation_config
from pipeline.reindex import create_reindex_pipeline
from pipeline.release_tail import index_parameters, index_tuning

ORDER = [
    "ImageExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "SchemaGate",
    "Transform",
    "Trainer",
    "Evaluator",
    "EncoderEvaluator",
    "ServingValidator",
    "Pusher",
    "Embedder",
    "IndexBuilder",
    "IndexEvaluator",
    "Publisher",
]
OURS = {
    "ImageExampleGen",
    "SchemaGate",
    "EncoderEvaluator",
    "ServingValidator",
    "Embedder",
    "IndexBuilder",
    "IndexEvaluator",
    "Publisher",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PipelineConfig:
    root = tmp_path_factory.mktemp("wired")
    (root / "images").mkdir()
    options = [f"ingest.images={root}/images", f"root={root}", f"serving_root={root}/serving"]
    return load(None, [*options, "encoder.height=28", "encoder.width=28", "encoder.channels=1"])


def test_every_component_comes_after_what_it_needs(config):
    # TFX sorts them by their needs; those of equal rank may change places.
    ids = [component.id for component in create_training_pipeline(config).components]
    assert sorted(ids) == sorted(ORDER)
    for earlier, later in [*itertools.pairwise(ORDER[:10]), *itertools.pairwise(ORDER[11:])]:
        assert ids.index(earlier) < ids.index(later)
    assert ids.index("ServingValidator") < min(ids.index("Pusher"), ids.index("Embedder"))
    assert ids[-1] == "Publisher"


@pytest.mark.parametrize("family", ["pixels", "itq", "descriptors", "cnn"])
def test_what_does_not_reconstruct_is_not_asked_for_its_error(config, family):
    changed = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, family=family))
    ids = [component.id for component in create_training_pipeline(changed).components]
    assert sorted(ids) == sorted(set(ORDER) - {"Evaluator"})


def test_nothing_of_our_code_is_answered_from_a_stale_cache(config, monkeypatch):
    def properties(code):
        monkeypatch.setattr("pipeline.pipeline.code_fingerprint", lambda: code)
        return {c.id: json.dumps(c.exec_properties, default=str) for c in create_training_pipeline(config).components}

    one, other = properties("one"), properties("other")
    # Transform and Trainer run our functions by their import path, which TFX's cache would not look into.
    assert {name for name in one if one[name] != other[name]} == OURS | {"Transform", "Trainer"}


def test_publisher_runs_anew_in_every_run(config):
    def publisher(run):
        return create_training_pipeline(config, run=run).components[-1].exec_properties

    assert publisher("1") != publisher("2")


def test_training_sees_no_label(config):
    from tfx.types import standard_component_specs as specs

    labelled = dataclasses.replace(config, ingest=dataclasses.replace(config.ingest, label_from="folder"))
    by_id = {c.id: c for c in create_training_pipeline(labelled).components}
    for name in ("Trainer", "Transform"):
        assert "label" not in json.dumps(by_id[name].exec_properties[specs.CUSTOM_CONFIG_KEY], default=str)


def test_a_shape_must_be_known(config):
    unknown = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, height=0))
    with pytest.raises(ValueError, match=r"encoder.height, width and channels must be set"):
        create_training_pipeline(unknown)


def test_the_error_is_sliced_by_what_is_asked_and_by_a_label():
    def slices(evaluation, labelled):
        made = evaluation_config(evaluation, labelled=labelled)
        return [list(spec.feature_keys) for spec in made.slicing_specs]

    assert slices(EvaluationConfig(), False) == [[]]
    assert slices(EvaluationConfig(), True) == [[], ["label"]]
    assert slices(EvaluationConfig(slice_by=("attribute/shop",)), True) == [[], ["attribute/shop"], ["label"]]


def test_an_index_takes_the_kind_and_the_parameters_it_is_given():
    assert index_parameters(IndexConfig()) == "{}"
    stated = IndexConfig(kind="tree", parameters={"leaves": 8})
    assert json.loads(index_parameters(stated)) == {"kind": "tree", "leaves": 8}


def test_parameters_are_searched_for_what_the_config_says():
    assert TuningOptions.from_json(index_tuning(IndexConfig())) == TuningOptions()
    told = load(None, ["index.recall_target=0.999", "index.bytes_per_item=40", "index.tuning.leaves=[1, 2]"]).index
    read = TuningOptions.from_json(index_tuning(told))
    assert (read.target, read.bytes_per_item, read.search.leaves) == (0.999, 40, (1, 2))
    assert TuningOptions.from_json(index_tuning(load(None, ["index.tuning.method=rule"]).index)).method == "rule"


def test_a_reindex_knows_the_index_it_builds_on():
    reindex = create_reindex_pipeline(load(None, ["ingest.images=images"]))
    builder = next(component for component in reindex.components if component.id == "IndexBuilder")
    assert builder.inputs["base"] is not None
    assert builder.inputs["base"].producer_component_id == "ReleaseEncoder"
