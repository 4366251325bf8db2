import json
import pathlib
import shutil

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components.artifacts import Embeddings, IndexEvaluation, IngestReport, PublishedRelease, VectorIndex
from components.embedder import Embedder
from components.index_builder import IndexBuilder
from components.index_evaluator import IndexEvaluator, RecallTooLow
from components.publisher import NothingPushed, Publisher, read_lineage
from pipeline.beam_options import DIRECT_RUNNER
from serving.release.current import read_current
from serving.release.manifest import Manifest
from serving.release.publish import PublishRefused
from serving.release.reader import check_encoder, open_release
from serving.storage import open_store
from tests.components.tiny import Picture, make_encoder, make_examples, png

pytestmark = pytest.mark.slow


def artifact(kind, uri):
    made = kind()
    made.uri = str(uri)
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Embeddings, index and evaluation of 30 images, as the pipeline makes them."""
    pictures = [Picture(f"{n}.png", png(n), "eval" if n % 3 else "train") for n in range(30)]
    return build(tmp_path_factory.mktemp("built"), pictures)


def build(root, pictures, seed=0, shards=2):
    encoder = make_encoder(root / "blessing", seed)
    examples = make_examples(root / "examples", pictures)
    embeddings = artifact(Embeddings, root / "embeddings")
    index = artifact(VectorIndex, root / "index")
    evaluation = artifact(IndexEvaluation, root / "evaluation")
    Embedder.test_call(
        examples=examples,
        infra_blessing=encoder.blessing,
        embeddings=embeddings,
        serving_root="",
        batch_size=64,
        max_failed_share=0.0,
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
    )
    IndexBuilder.test_call(
        embeddings=embeddings, index=index, shards=shards, parameters="", beam_pipeline=beam.Pipeline(DIRECT_RUNNER)
    )
    IndexEvaluator.test_call(
        index=index,
        embeddings=embeddings,
        evaluation=evaluation,
        queries=1000,
        seed=1,
        min_recall=0.99,
        beam_pipeline=beam.Pipeline(DIRECT_RUNNER),
    )
    pushed = artifact(standard_artifacts.PushedModel, root / "pushed")
    shutil.copytree(encoder.folder, pushed.uri)
    pushed.set_int_custom_property("pushed", 1)
    pushed.set_string_custom_property("pushed_destination", str(root / "staging" / "1"))
    return {"pushed_model": pushed, "index": index, "index_evaluation": evaluation}


def run(root: pathlib.Path, built, out: pathlib.Path, **parameters):
    release = artifact(PublishedRelease, out)
    Publisher.test_call(
        **built,
        release=release,
        **{"serving_root": str(root), "model_name": "encoder", "lineage": "", "run": "1", "code": "c", **parameters},
    )
    return release


def test_what_is_published_can_be_opened_and_searched(tmp_path, built):
    release = run(tmp_path / "root", built, tmp_path / "out", lineage='{"data_fingerprint": "f"}')
    store = open_store(tmp_path / "root")
    current = read_current(store)
    opened = open_release(store, current)
    signature = tf.saved_model.load(built["pushed_model"].uri).signatures["serving_default"]
    check_encoder(opened, lambda images: signature(image_bytes=tf.constant(images))["embedding"].numpy())
    vector = signature(image_bytes=tf.constant([png(7)]))["embedding"].numpy()[0]
    best = opened.search(vector, 5)
    assert (best[0].item.item_id, best[0].score) == ("7.png", pytest.approx(1))
    assert len({neighbor.item.item_id for neighbor in best}) == 5
    manifest = Manifest.from_json((tmp_path / "out" / "release.json").read_bytes())
    assert manifest == opened.manifest
    assert manifest.index.count == 30
    assert len(manifest.index.shards) == 2
    assert len(manifest.golden) == 20
    assert manifest.evaluation["gate"]["met"]
    assert manifest.lineage == {"code": "c", "run": "1", "data_fingerprint": "f"}
    assert release.get_string_custom_property("release_id") == current
    assert release.get_int_custom_property("unchanged") == 0
    opened.close()


def test_a_release_says_what_data_it_was_made_of(tmp_path, built):
    report = artifact(IngestReport, tmp_path / "report")
    told = {"images": "photos", "data_fingerprint": "f", "items": 30, "splits": {}, "skipped": {"total": 1}}
    pathlib.Path(report.uri).mkdir()
    options = {"limits": {"max_side": 512}, "shards": 8}
    (pathlib.Path(report.uri) / "report.json").write_text(json.dumps({**told, "listed": ["many"], "options": options}))
    run(tmp_path / "root", {**built, "report": report}, tmp_path / "out")
    manifest = Manifest.from_json((tmp_path / "out" / "release.json").read_bytes())
    assert manifest.lineage["data"] == {**told, "spans": None, "reindex": None, "limits": {"max_side": 512}}


def test_a_second_run_with_the_same_content_does_nothing(tmp_path, built):
    run(tmp_path / "root", built, tmp_path / "one")
    before = sorted((file.as_posix(), file.stat().st_mtime_ns) for file in (tmp_path / "root").rglob("*.*"))
    release = run(tmp_path / "root", built, tmp_path / "two", run="2")
    assert release.get_int_custom_property("unchanged") == 1
    after = sorted((file.as_posix(), file.stat().st_mtime_ns) for file in (tmp_path / "root").rglob("*.*"))
    assert before == after
    assert (tmp_path / "one" / "release.json").read_bytes() == (tmp_path / "two" / "release.json").read_bytes()


def test_the_index_of_another_encoder_is_refused(tmp_path, built):
    other = make_encoder(tmp_path / "other", seed=5)
    pushed = artifact(standard_artifacts.PushedModel, other.folder)
    pushed.set_int_custom_property("pushed", 1)
    with pytest.raises(PublishRefused, match="embedded by the encoder"):
        run(tmp_path / "root", {**built, "pushed_model": pushed}, tmp_path / "out")
    assert read_current(open_store(tmp_path / "root")) is None


def test_an_index_below_its_gate_is_refused(tmp_path, built):
    failed = tmp_path / "evaluation"
    shutil.copytree(built["index_evaluation"].uri, failed)
    value = json.loads((failed / "evaluation.json").read_text())
    value["gate"].update(met=False, recall=0.5)
    (failed / "evaluation.json").write_text(json.dumps(value))
    with pytest.raises(RecallTooLow, match=r"reached 0\.5000"):
        run(tmp_path / "root", {**built, "index_evaluation": artifact(IndexEvaluation, failed)}, tmp_path / "out")
    assert read_current(open_store(tmp_path / "root")) is None


def test_nothing_is_published_when_nothing_was_pushed(tmp_path, built):
    pushed = artifact(standard_artifacts.PushedModel, tmp_path / "empty")
    with pytest.raises(NothingPushed, match="was not blessed"):
        run(tmp_path / "root", {**built, "pushed_model": pushed}, tmp_path / "out")
    pushed.set_int_custom_property("pushed", 1)
    with pytest.raises(NothingPushed, match=r"holds saved_model\.pb"):
        run(tmp_path / "root", {**built, "pushed_model": pushed}, tmp_path / "out")


@pytest.mark.parametrize(
    "pictures",
    [
        [Picture("a.png", png(0), "train"), Picture("a.png", png(0), "eval")],
        [Picture(f"{n}.png", png(0)) for n in range(30)],
    ],
    ids=["one image", "all identical"],
)
def test_the_smallest_collections_become_releases_too(tmp_path, pictures):
    run(tmp_path / "root", build(tmp_path, pictures), tmp_path / "out")
    store = open_store(tmp_path / "root")
    opened = open_release(store, read_current(store))
    assert opened.search(np.ones(16, np.float32), 3)
    opened.close()


@pytest.mark.parametrize("text", ["[]", '"x"', "3"])
def test_lineage_is_an_object(text):
    with pytest.raises(ValueError, match="JSON object"):
        read_lineage(text)


def test_every_run_has_a_cache_key_of_its_own(tmp_path):
    def cache_key(run):
        inputs = {
            "pushed_model": standard_artifacts.PushedModel,
            "index": VectorIndex,
            "index_evaluation": IndexEvaluation,
        }
        channels = {name: Channel(type=kind) for name, kind in inputs.items()}
        # What TFX hashes of a node, beside its inputs.
        return dict(Publisher(**channels, serving_root="root", run=run, code="c").exec_properties)

    assert cache_key("1") != cache_key("2")
    assert cache_key("1") == cache_key("1")
